// The launch planner: from a call's shape and a device's facts to how its kernels are launched. It is plain host C++,
// so that plans can be tested and shown without a GPU. The same input always gives the same plan.
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

// The numbers are fixed: tests and benchmarks force a strategy by its number.
enum class Strategy : int8_t {
  kAutomatic = 0,    // only in requests: the planner decides
  kElementWise = 1,  // no statistics, so tiles are processed in any order
  kStreaming = 2,    // one block per row; the logits are read twice
  kResident = 3,     // one block per row, which keeps the row in its shared memory
  kSplit = 4,        // statistics, then gradients, each by any number of blocks; the logits are read twice
  kCluster = 5,      // one cluster of blocks per row, which keeps the row in their shared memories
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
  int threads_per_sm;        // resident threads, at most
  int64_t shared_per_block;  // bytes, with opt-in
  int64_t l2_bytes;
};

// Returns a well-known device of each family, to plan for without a GPU: A100, H100 SXM, B200, RTX 5090. Another
// capability gets the newest family that is not newer than it.
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
  bool gradient = true;      // the forward pass forms the gradient
  bool dense_labels = true;  // the logits of a row are adjacent in memory
  int target_bytes = 0;      // bytes of targets that are copied ahead with a chunk: staged_target_bytes()
  bool row_resident = true;  // the loss has resident and cluster kernels
};

// A row is cut into chunks. A chunk is the data that a thread moves with one 16-byte access; a tile is the chunks that
// a block processes at a time; a unit is one tile of one row.
struct LaunchPlan {
  Strategy strategy;
  int threads;  // per block
  int64_t blocks;
  int64_t shared_bytes;  // dynamic shared memory
  int vector_width;      // elements per access; 1 for strided labels
  int64_t tiles;         // per row
  int64_t chunks_per_tile;
  int cluster;            // blocks that share the memory of a row
  int64_t rows_per_wave;  // split: rows whose logits stay in L2 until their gradient is formed
  int reads;              // how often this pass reads the logits
};

// The maximum of threads per block that kernels are compiled for.
constexpr int kMaxThreads = 256;   // blocks that process whole rows
constexpr int kUnitThreads = 256;  // blocks that process tiles
constexpr int kLabelThreads = 128;
// The minimum of blocks of kMaxThreads that a multiprocessor has registers for.
constexpr int kResidentBlocks = 2;
constexpr int streaming_blocks_of(int capability) { return capability >= 100 ? 2 : 3; }
constexpr int64_t kMaxLabels = (int64_t{1} << 31) - 1024;  // labels within a row are counted in 32 bits
constexpr int64_t kStaticShared = 2048;                    // the maximum per kernel, for reductions
constexpr int64_t kSharedWithoutOptIn = 48 * 1024;  // static and dynamic bytes that a block may use without opting in
constexpr int64_t kChunkBytes = 16;
constexpr int kStages = 4;           // chunks of a thread that are in flight or in use
constexpr int kPortableCluster = 8;  // blocks in a cluster, on every device with clusters
constexpr int kMaxCluster = 16;      // blocks in a cluster, on data-centre devices

inline int64_t chunk_width(DType dtype) { return kChunkBytes / bytes_of(dtype); }

// Dense targets are copied ahead with their chunk if they are few bytes, in sizes that the hardware copies.
inline int staged_target_bytes(DType logits, DType targets) {
  const int64_t bytes = chunk_width(logits) * bytes_of(targets);
  return bytes >= 4 && bytes <= 32 ? static_cast<int>(bytes) : 0;
}

// Chunks start at multiples of 16 bytes; a row that does not starts and ends with a partial chunk.
inline int64_t most_chunks(int64_t labels, DType dtype) {
  const int64_t width = chunk_width(dtype);
  return (labels + 2 * width - 2) / width;
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Returns the smallest power of two from 32 on that leaves each thread at most `chunks_per_thread` chunks, or `most`.
inline int threads_for(int64_t chunks, int64_t chunks_per_thread, int most) {
  int threads = 32;
  while (threads < most && threads * chunks_per_thread < chunks) threads *= 2;
  return std::min(threads, most);
}

// Returns the shared memory for chunks and their targets.
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

// A grid that strides over units in any order: for element-wise losses, and for every gradient from known coefficients.
inline LaunchPlan plan_units(const Problem& problem, const DeviceFacts& facts) {
  const int64_t chunks = std::max<int64_t>(1, most_chunks(problem.labels, problem.dtype));
  LaunchPlan plan = common_plan(problem, Strategy::kElementWise, threads_for(chunks, 4, kUnitThreads));
  // Long tiles save work at the start of rows; short ones keep every multiprocessor busy.
  int64_t chunks_per_thread = 8;
  const auto units = [&] { return problem.rows * ((chunks - 1) / (plan.threads * chunks_per_thread) + 1); };
  while (chunks_per_thread > 1 && units() < int64_t{16} * facts.sm_count) chunks_per_thread /= 2;
  plan.chunks_per_tile = plan.threads * chunks_per_thread;
  plan.tiles = (chunks - 1) / plan.chunks_per_tile + 1;
  plan.blocks = std::min(problem.rows * plan.tiles, most_unit_blocks(facts));
  return plan;
}

// ---- row-wise losses --------------------------------------------------------------------------------

// A plan in which `cluster` blocks keep a row in shared memory.
inline LaunchPlan plan_resident(const Problem& problem, const DeviceFacts& facts, int cluster) {
  const int64_t chunks = divide_up(most_chunks(problem.labels, problem.dtype), cluster);
  const Strategy strategy = cluster > 1 ? Strategy::kCluster : Strategy::kResident;
  LaunchPlan plan = common_plan(problem, strategy, threads_for(chunks, 8, kMaxThreads));
  plan.shared_bytes = bytes_of_chunks(problem, chunks);
  plan.tiles = plan.cluster = cluster;
  plan.chunks_per_tile = chunks;
  // The grid is persistent: the memory of a row receives the next row as the gradient is stored.
  const int64_t by_memory = facts.shared_per_block / (plan.shared_bytes + kStaticShared);
  const int64_t by_registers = kResidentBlocks * kMaxThreads / plan.threads;
  const int64_t a_processor = std::max<int64_t>(1, std::min(by_memory, by_registers));
  plan.blocks = cluster * std::min(problem.rows, std::max<int64_t>(1, a_processor * facts.sm_count / cluster));
  return plan;
}

inline bool fits(const LaunchPlan& plan, const DeviceFacts& facts) {
  return plan.shared_bytes + kStaticShared <= facts.shared_per_block;
}

// Chooses the smallest cluster that leaves memory for kResidentBlocks blocks on a multiprocessor, else the largest
// portable one; a larger cluster only if no portable one can keep a row.
inline LaunchPlan plan_cluster(const Problem& problem, const DeviceFacts& facts) {
  int cluster = 2;
  const auto shared = [&] { return plan_resident(problem, facts, cluster).shared_bytes + kStaticShared; };
  while (cluster < kPortableCluster && kResidentBlocks * shared() > facts.shared_per_block) cluster *= 2;
  const bool wide = facts.capability < 120 && shared() > facts.shared_per_block;
  return plan_resident(problem, facts, wide ? kMaxCluster : cluster);
}

// Limits the rows in flight so that the second read of a row comes from L2, unless that would leave multiprocessors
// idle.
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

// The rows of a wave fill at most 40% of L2 together, so that their second read comes from there. A pass without a
// gradient reads once and needs one wave; the tiles are the same, and so is the value, bit for bit.
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
  // A micro group with no elements still needs one block.
  plan.blocks = std::max<int64_t>(1, std::min(plan.rows_per_wave * plan.tiles, most_unit_blocks(facts)));
  return plan;
}

// True if streaming, one block per row, leaves most of the device idle.
inline bool few_long_rows(const Problem& problem, const DeviceFacts& facts) {
  return problem.rows * 2 <= facts.sm_count && problem.labels * bytes_of(problem.dtype) >= int64_t{1} << 17;
}

// `wanted` is used if it can run. The default is the simplest strategy of each kind until a measurement on a GPU shows
// that another one is right and faster on that family; resident and cluster wait for that.
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

// Each thread processes `width` labels down the rows. If there are few labels, the rows are split too, and `tiles` is
// the number of splits.
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
