// From a call's shape and a device's facts to how its kernels are launched: plain host C++, so that
// plans are tested and shown without a GPU. The same input always gives the same plan.
//
//   LaunchPlan plan = plan_forward({rows, labels, DType::kBFloat16, /*element_wise=*/false}, known_device(90));
//   puts(describe(plan).c_str());
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "params.h"

namespace mlloss {

// Numbers are fixed: tests and benchmarks force a strategy by its number.
enum class Strategy : int8_t {
  kAutomatic = 0,    // in requests only: the planner decides
  kElementWise = 1,  // no row statistics: any order
  kStreaming = 2,    // a block a row, two reads
  kResident = 3,     // a block a row, the row held in shared memory
};

inline const char* name_of(Strategy strategy) {
  switch (strategy) {
    case Strategy::kElementWise:
      return "element-wise";
    case Strategy::kStreaming:
      return "streaming";
    case Strategy::kResident:
      return "resident";
    default:
      return "automatic";
  }
}

struct DeviceFacts {
  int capability;            // 10 * major + minor
  int sm_count;              // streaming multiprocessors
  int threads_per_sm;        // that can be resident
  int64_t shared_per_block;  // bytes, opt-in
  int64_t l2_bytes;
};

// A well-known device of each family, to plan for without a GPU: A100, H100 SXM, B200, RTX 5090.
// Another capability gets the newest family that is not newer than it.
inline DeviceFacts known_device(int capability) {
  constexpr DeviceFacts kKnown[] = {{120, 170, 1536, 101376, int64_t{96} << 20},
                                    {100, 148, 2048, 232448, int64_t{126} << 20},
                                    {90, 132, 2048, 232448, int64_t{50} << 20},
                                    {80, 108, 2048, 166912, int64_t{40} << 20}};
  for (const DeviceFacts& facts : kKnown) {
    if (capability >= facts.capability) return facts;
  }
  return kKnown[3];
}

struct Problem {
  int64_t rows, labels;
  DType dtype;  // of the logits
  bool element_wise;
  bool gradient = true;      // formed in the forward
  bool dense_labels = true;  // a row's logits lie next to each other
};

// A row is cut into chunks: what a thread moves with one 16-byte access. A tile is the chunks that a
// block takes at a time; a unit is one tile of one row.
struct LaunchPlan {
  Strategy strategy;
  int threads;  // a block
  int64_t blocks;
  int64_t shared_bytes;  // dynamic
  int vector_width;      // elements an access; 1 where labels are strided
  int64_t tiles;         // a row
  int64_t chunks_per_tile;
  int reads;  // of the logits, in this pass
};

// Threads a block, at most: what kernels are compiled for.
constexpr int kMaxThreads = 512;   // a block that takes whole rows
constexpr int kUnitThreads = 256;  // one that takes tiles
constexpr int kLabelThreads = 128;
constexpr int64_t kMaxLabels = (int64_t{1} << 31) - 1024;  // labels within a row are counted in 32 bits
constexpr int64_t kStaticShared = 1024;                    // at most, for block reductions
constexpr int64_t kChunkBytes = 16;

// Chunks begin on 16 bytes; a row that does not begins and ends with a partial one.
inline int64_t most_chunks(int64_t labels, DType dtype) {
  const int64_t width = kChunkBytes / bytes_of(dtype);
  return (labels + 2 * width - 2) / width;
}

// The power of two from 32 on, but at most `most`, that leaves a thread `chunks_per_thread` of them.
inline int threads_for(int64_t chunks, int64_t chunks_per_thread, int most) {
  int threads = 32;
  while (threads < most && threads * chunks_per_thread < chunks) threads *= 2;
  return std::min(threads, most);
}

inline LaunchPlan common_plan(const Problem& problem, Strategy strategy, int threads) {
  LaunchPlan plan{};
  plan.strategy = strategy;
  plan.threads = threads;
  plan.vector_width = problem.dense_labels ? static_cast<int>(kChunkBytes / bytes_of(problem.dtype)) : 1;
  plan.tiles = 1;
  plan.chunks_per_tile = most_chunks(problem.labels, problem.dtype);
  plan.reads = 1;
  return plan;
}

// Units in any order, by a grid that strides over them: element-wise losses, and every gradient from
// known coefficients.
inline LaunchPlan plan_units(const Problem& problem, const DeviceFacts& facts) {
  const int64_t chunks = std::max<int64_t>(1, most_chunks(problem.labels, problem.dtype));
  LaunchPlan plan = common_plan(problem, Strategy::kElementWise, threads_for(chunks, 4, kUnitThreads));
  // Long tiles spare row starts; short ones keep every multiprocessor busy.
  int64_t chunks_per_thread = 8;
  const auto units = [&] { return problem.rows * ((chunks - 1) / (plan.threads * chunks_per_thread) + 1); };
  while (chunks_per_thread > 1 && units() < int64_t{16} * facts.sm_count) chunks_per_thread /= 2;
  plan.chunks_per_tile = plan.threads * chunks_per_thread;
  plan.tiles = (chunks - 1) / plan.chunks_per_tile + 1;
  plan.blocks = std::min(problem.rows * plan.tiles, int64_t{32} * facts.sm_count);
  return plan;
}

inline bool fits_resident(const Problem& problem, const DeviceFacts& facts) {
  return most_chunks(problem.labels, problem.dtype) * kChunkBytes + kStaticShared <= facts.shared_per_block;
}

inline LaunchPlan plan_resident(const Problem& problem, const DeviceFacts& facts) {
  const int64_t chunks = most_chunks(problem.labels, problem.dtype);
  LaunchPlan plan = common_plan(problem, Strategy::kResident, threads_for(chunks, 4, kMaxThreads));
  plan.shared_bytes = chunks * kChunkBytes;
  plan.blocks = std::min(problem.rows, int64_t{32} * facts.sm_count);
  return plan;
}

// As few rows in flight as keep the device busy, if that lets the second read come from L2.
inline int64_t streaming_blocks(const Problem& problem, const DeviceFacts& facts) {
  const int64_t row_bytes = std::max<int64_t>(1, problem.labels * bytes_of(problem.dtype));
  const int64_t most = int64_t{facts.threads_per_sm / kMaxThreads} * facts.sm_count;
  const int64_t in_l2 = facts.l2_bytes * 2 / 5 / row_bytes;
  if (in_l2 >= facts.sm_count) return std::min(in_l2, most);
  return row_bytes * facts.sm_count <= facts.l2_bytes ? facts.sm_count : most;
}

inline LaunchPlan plan_streaming(const Problem& problem, const DeviceFacts& facts) {
  const int64_t chunks = most_chunks(problem.labels, problem.dtype);
  LaunchPlan plan = common_plan(problem, Strategy::kStreaming, threads_for(chunks, 4, kMaxThreads));
  const int64_t blocks_per_row = kMaxThreads / plan.threads;
  plan.blocks = std::min(problem.rows, streaming_blocks(problem, facts) * blocks_per_row);
  plan.reads = problem.gradient ? 2 : 1;
  return plan;
}

// `wanted` is taken where it can run. The choice is the simplest strategy of each kind until a result
// from a GPU has shown another one right and faster on that family: resident waits for that.
inline LaunchPlan plan_forward(const Problem& problem, const DeviceFacts& facts,
                               Strategy wanted = Strategy::kAutomatic) {
  if (problem.element_wise) return plan_units(problem, facts);
  const bool resident = wanted == Strategy::kResident && fits_resident(problem, facts);
  return resident ? plan_resident(problem, facts) : plan_streaming(problem, facts);
}

inline LaunchPlan plan_backward(const Problem& problem, const DeviceFacts& facts) { return plan_units(problem, facts); }

// Sums over rows: a thread a label; few labels split the rows too. `tiles` counts the splits.
inline LaunchPlan plan_label_gradient(const Problem& problem, const DeviceFacts& facts) {
  LaunchPlan plan = common_plan(problem, Strategy::kElementWise, kLabelThreads);
  plan.vector_width = 1;
  plan.chunks_per_tile = 0;
  const int64_t across = (problem.labels + plan.threads - 1) / plan.threads;
  while (across * plan.tiles < int64_t{4} * facts.sm_count && plan.tiles < 64 && plan.tiles * 32 < problem.rows) {
    plan.tiles *= 2;
  }
  plan.blocks = across * plan.tiles;
  return plan;
}

inline std::string describe(const LaunchPlan& plan) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  std::string text = std::string(name_of(plan.strategy)) + ": " + number(plan.blocks) + " blocks of " +
                     number(plan.threads) + " threads, " + number(plan.vector_width) + " elements an access";
  if (plan.shared_bytes > 0) text += ", " + number((plan.shared_bytes + 1023) / 1024) + " KB shared memory";
  if (plan.tiles > 1) text += ", " + number(plan.tiles) + " tiles a row";
  text += plan.reads == 1 ? ", logits read once" : ", logits read " + number(plan.reads) + " times";
  return text;
}

}  // namespace mlloss
