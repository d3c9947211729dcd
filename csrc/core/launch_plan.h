// From a call's shape and a device's facts to how its kernels are launched: plain host C++, so that
// plans are tested and shown without a GPU. The same input always gives the same plan.
//
//   const Problem problem{rows, labels, DType::kBFloat16, Grouping::kSamples};
//   const LaunchPlan plan = plan_forward(problem, known_device(90));
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
  kElementWise = 1,  // no statistics: any order
  kStreaming = 2,    // a block a row, two reads
  kResident = 3,     // a block a row, the row held in its shared memory
  kSplit = 4,        // statistics, then gradients, each by any number of blocks: two reads
  kCluster = 5,      // a cluster of blocks a row, the row held in their shared memories
};

constexpr Strategy kStrategies[] = {Strategy::kAutomatic, Strategy::kElementWise, Strategy::kStreaming,
                                    Strategy::kResident,  Strategy::kSplit,       Strategy::kCluster};

inline const char* name_of(Strategy strategy) {
  constexpr const char* kNames[] = {"automatic", "element-wise", "streaming", "resident", "split", "cluster"};
  return kNames[static_cast<int>(strategy)];
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
  Grouping grouping;
  bool gradient = true;      // formed in the forward
  bool dense_labels = true;  // a row's logits lie next to each other
  int target_bytes = 0;      // that are copied ahead with a chunk: staged_target_bytes()
  bool row_resident = true;  // the loss has kernels that hold a row
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
  int cluster;            // blocks that share a row's memory
  int64_t rows_per_wave;  // split: as many as stay in L2 until their gradient is due
  int reads;              // of the logits, in this pass
};

// Threads a block, at most: what kernels are compiled for.
constexpr int kMaxThreads = 256;   // a block that takes whole rows
constexpr int kUnitThreads = 256;  // one that takes tiles
constexpr int kLabelThreads = 128;
// Blocks of kMaxThreads that a multiprocessor has registers for, at least.
constexpr int kResidentBlocks = 2;
constexpr int streaming_blocks_of(int capability) { return capability >= 100 ? 2 : 3; }
constexpr int64_t kMaxLabels = (int64_t{1} << 31) - 1024;  // labels within a row are counted in 32 bits
constexpr int64_t kStaticShared = 2048;                    // of a kernel, at most, for reductions
constexpr int64_t kSharedUnasked = 48 * 1024;              // static and dynamic, that a block has without opting in
constexpr int64_t kChunkBytes = 16;
constexpr int kStages = 4;           // chunks of a thread that are on their way or in use
constexpr int kPortableCluster = 8;  // blocks that every device with clusters joins
constexpr int kMaxCluster = 16;      // on data-centre devices

inline int64_t chunk_width(DType dtype) { return kChunkBytes / bytes_of(dtype); }

// Dense targets are copied ahead with their chunk if they are few bytes, in units that hardware copies.
inline int staged_target_bytes(DType logits, DType targets) {
  const int64_t bytes = chunk_width(logits) * bytes_of(targets);
  return bytes >= 4 && bytes <= 32 ? static_cast<int>(bytes) : 0;
}

// Chunks begin on 16 bytes; a row that does not begins and ends with a partial one.
inline int64_t most_chunks(int64_t labels, DType dtype) {
  const int64_t width = chunk_width(dtype);
  return (labels + 2 * width - 2) / width;
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The power of two from 32 on, but at most `most`, that leaves a thread `chunks_per_thread` of them.
inline int threads_for(int64_t chunks, int64_t chunks_per_thread, int most) {
  int threads = 32;
  while (threads < most && threads * chunks_per_thread < chunks) threads *= 2;
  return std::min(threads, most);
}

// Shared memory of chunks and their targets.
inline int64_t bytes_of_chunks(const Problem& problem, int64_t chunks) {
  return chunks * (kChunkBytes + problem.target_bytes);
}

inline LaunchPlan common_plan(const Problem& problem, Strategy strategy, int threads) {
  LaunchPlan plan{};
  plan.strategy = strategy;
  plan.threads = threads;
  plan.vector_width = problem.dense_labels ? static_cast<int>(chunk_width(problem.dtype)) : 1;
  plan.shared_bytes = bytes_of_chunks(problem, int64_t{kStages} * threads);
  plan.tiles = 1;
  plan.chunks_per_tile = most_chunks(problem.labels, problem.dtype);
  plan.cluster = 1;
  plan.rows_per_wave = problem.rows;
  plan.reads = 1;
  return plan;
}

inline int64_t most_unit_blocks(const DeviceFacts& facts) { return int64_t{32} * facts.sm_count; }

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
  plan.blocks = std::min(problem.rows * plan.tiles, most_unit_blocks(facts));
  return plan;
}

// ---- row-wise losses --------------------------------------------------------------------------------

// A row held by `cluster` blocks.
inline LaunchPlan plan_resident(const Problem& problem, const DeviceFacts& facts, int cluster) {
  const int64_t chunks = divide_up(most_chunks(problem.labels, problem.dtype), cluster);
  const Strategy strategy = cluster > 1 ? Strategy::kCluster : Strategy::kResident;
  LaunchPlan plan = common_plan(problem, strategy, threads_for(chunks, 8, kMaxThreads));
  plan.shared_bytes = bytes_of_chunks(problem, chunks);
  plan.tiles = plan.cluster = cluster;
  plan.chunks_per_tile = chunks;
  // A persistent grid: a row's memory takes the next row as its gradient leaves.
  const int64_t by_memory = facts.shared_per_block / (plan.shared_bytes + kStaticShared);
  const int64_t by_registers = kResidentBlocks * kMaxThreads / plan.threads;
  const int64_t a_processor = std::max<int64_t>(1, std::min(by_memory, by_registers));
  plan.blocks = cluster * std::min(problem.rows, std::max<int64_t>(1, a_processor * facts.sm_count / cluster));
  return plan;
}

inline bool fits(const LaunchPlan& plan, const DeviceFacts& facts) {
  return plan.shared_bytes + kStaticShared <= facts.shared_per_block;
}

// The smallest cluster that leaves room for kResidentBlocks blocks a multiprocessor, or the largest that is portable;
// more only where no other holds a row.
inline LaunchPlan plan_cluster(const Problem& problem, const DeviceFacts& facts) {
  int cluster = 2;
  const auto shared = [&] { return plan_resident(problem, facts, cluster).shared_bytes + kStaticShared; };
  while (cluster < kPortableCluster && kResidentBlocks * shared() > facts.shared_per_block) cluster *= 2;
  const bool wide = facts.capability < 120 && shared() > facts.shared_per_block;
  return plan_resident(problem, facts, wide ? kMaxCluster : cluster);
}

// As few rows in flight as keep the device busy, if that lets the second read come from L2.
inline int64_t streaming_blocks(const Problem& problem, const DeviceFacts& facts) {
  const int64_t row_bytes = std::max<int64_t>(1, problem.labels * bytes_of(problem.dtype));
  const int64_t most = int64_t{streaming_blocks_of(facts.capability)} * facts.sm_count;
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

// In waves of rows that fill at most 40% of L2 together, so that the second read comes from there. Without
// a gradient there is no second read, and one wave; tiles are the same, and so is the value, bit by bit.
inline LaunchPlan plan_split(const Problem& problem, const DeviceFacts& facts) {
  Problem wave = problem;
  if (problem.grouping == Grouping::kSamples) {
    const int64_t row_bytes = std::max<int64_t>(1, problem.labels * bytes_of(problem.dtype));
    wave.rows = std::min(problem.rows, std::max<int64_t>(1, facts.l2_bytes * 2 / 5 / row_bytes));
  }
  LaunchPlan plan = plan_units(wave, facts);
  plan.strategy = Strategy::kSplit;
  plan.rows_per_wave = problem.gradient ? wave.rows : problem.rows;
  plan.reads = problem.gradient ? 2 : 1;
  // Everything, of nothing, has a value too.
  plan.blocks = std::max<int64_t>(1, std::min(plan.rows_per_wave * plan.tiles, most_unit_blocks(facts)));
  return plan;
}

// Streaming by blocks that own rows leaves most of the device idle.
inline bool few_long_rows(const Problem& problem, const DeviceFacts& facts) {
  return problem.rows * 2 <= facts.sm_count && problem.labels * bytes_of(problem.dtype) >= int64_t{1} << 17;
}

// `wanted` is taken where it can run. The choice is the simplest strategy of each kind until a result
// from a GPU has shown another one right and faster on that family: resident and cluster wait for that.
inline LaunchPlan plan_forward(const Problem& problem, const DeviceFacts& facts,
                               Strategy wanted = Strategy::kAutomatic) {
  if (problem.grouping == Grouping::kElement) return plan_units(problem, facts);
  if (problem.grouping != Grouping::kSamples || wanted == Strategy::kSplit) return plan_split(problem, facts);
  if (problem.row_resident && (wanted == Strategy::kResident || wanted == Strategy::kCluster)) {
    const bool one_block = wanted == Strategy::kResident || facts.capability < 90;
    const LaunchPlan plan = one_block ? plan_resident(problem, facts, 1) : plan_cluster(problem, facts);
    if (fits(plan, facts)) return plan;
  }
  if (wanted != Strategy::kStreaming && few_long_rows(problem, facts)) return plan_split(problem, facts);
  return plan_streaming(problem, facts);
}

inline LaunchPlan plan_backward(const Problem& problem, const DeviceFacts& facts) { return plan_units(problem, facts); }

// ---- sums over rows ---------------------------------------------------------------------------------

// A thread takes `width` labels down the rows; few labels split the rows too. `tiles` counts the splits.
inline LaunchPlan plan_down_rows(const Problem& problem, const DeviceFacts& facts, int width) {
  LaunchPlan plan = common_plan(problem, Strategy::kSplit, kLabelThreads);
  plan.vector_width = width;
  plan.shared_bytes = 0;
  plan.chunks_per_tile = 0;
  plan.reads = problem.gradient ? 2 : 1;
  const int64_t across = divide_up(problem.labels, int64_t{plan.threads} * width);
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
  if (plan.cluster > 1) {
    text += ", clusters of " + number(plan.cluster);
  } else if (plan.tiles > 1) {
    text += ", " + number(plan.tiles) + " tiles a row";
  }
  if (plan.strategy == Strategy::kSplit) text += ", " + number(plan.rows_per_wave) + " rows a wave";
  text += plan.reads == 1 ? ", logits read once" : ", logits read " + number(plan.reads) + " times";
  return text;
}

}  // namespace mlloss
