// The planner's input (a problem) and its output (a launch plan with a prediction).
#pragma once

#include <cstdint>

#include "device_facts.h"
#include "params.h"

namespace mlloss {

// The numbers are fixed: tests and benchmarks force a strategy by its number.
enum class Strategy : int8_t {
  kAutomatic = 0,    // only in requests: the planner decides
  kElementWise = 1,  // no statistics, so tiles are processed in any order
  kTeam = 2,         // a team of blocks keeps a row in registers; the logits are read once
  kSplit = 3,        // statistics of a wave of rows, then their gradients; the logits are read twice
};

constexpr Strategy kStrategies[] = {Strategy::kAutomatic, Strategy::kElementWise, Strategy::kTeam, Strategy::kSplit};

inline const char* name_of(Strategy strategy) {
  constexpr const char* kNames[] = {"automatic", "element-wise", "team", "split"};
  return kNames[static_cast<int>(strategy)];
}

// The threads of team kernels that run on a multiprocessor at once: as many as its registers allow.
constexpr int kTeamThreadsPerSm = 768;
// The most chunks that a thread of a team keeps in registers. With options it keeps fewer, because their code needs
// registers too.
constexpr int kChunksPerThread = 8, kGeneralChunks = 4;

struct Problem {
  int64_t rows, labels;
  DType dtype;  // of the logits
  Grouping grouping;
  bool gradient = true;      // the forward pass forms the gradient
  bool dense_labels = true;  // the logits of a row are adjacent in memory
  // The default, fewer if the loss's team kernels need more registers, or 0 if it has none.
  int team_threads_per_sm = kTeamThreadsPerSm;
  int team_chunks = kChunksPerThread;  // chunks that a thread of a team keeps, at most

  bool operator==(const Problem& other) const {
    return rows == other.rows && labels == other.labels && dtype == other.dtype && grouping == other.grouping &&
           gradient == other.gradient && dense_labels == other.dense_labels &&
           team_threads_per_sm == other.team_threads_per_sm && team_chunks == other.team_chunks;
  }
};

// The resource or wait that takes most of the time that a plan needs beyond the floor.
enum class Bound : int8_t {
  kNone,              // nothing was predicted
  kBandwidth,         // the plan is near the floor
  kInstructions,      // issue slots
  kSpecialFunctions,  // exponentials, logarithms, reciprocals
  kLatency,           // waits that no other work on the multiprocessor hides
  kWaves,             // the last rows leave a part of the device idle
  kLaunches,          // starts of kernels
};

inline const char* name_of(Bound bound) {
  constexpr const char* kNames[] = {"nothing", "bandwidth", "instructions", "special functions",
                                    "latency", "waves",     "launches"};
  return kNames[static_cast<int>(bound)];
}

// A prediction of launch_model.h. The floor is the time that the logits' bytes need, once for the logits and once more
// for a gradient, at the bandwidth that kernels reach.
struct Prediction {
  double fraction;          // the floor as a share of the plan's time; 0 if nothing was predicted
  int64_t bytes_in_flight;  // the most bytes of a multiprocessor's loads in flight at once
  Bound bound;
};

// A row is cut into chunks. A chunk is the data that a thread moves with one 16-byte access; a tile is the chunks that
// a block processes at a time; a unit is one tile of one row.
struct LaunchPlan {
  Strategy strategy;
  int threads;  // per block
  int64_t blocks;
  int64_t shared_bytes;     // dynamic shared memory of a block
  int vector_width;         // elements per access; 1 for strided labels
  int64_t tiles;            // per row
  int64_t chunks_per_tile;  // the maximum
  int chunks_per_warp;      // team: consecutive chunks that a warp of a block keeps
  int team;                 // blocks that keep a row together; 1 for other strategies
  int64_t rows_per_wave;    // split: rows whose logits stay in L2 until their gradient is formed
  int reads;                // how many times this pass reads the logits
  Prediction predicted;
};

// The maximum of threads per block that kernels are compiled for.
constexpr int kUnitThreads = 256;  // blocks that process tiles in any order
constexpr int kTeamThreads = 256;  // blocks of a team
constexpr int kLabelThreads = 128;
constexpr int kWarpThreads = 32;                           // threads of a warp
constexpr int kMostBlocksPerSm = 32;                       // resident blocks on a multiprocessor
constexpr int64_t kMaxLabels = (int64_t{1} << 31) - 1024;  // labels within a row are counted in 32 bits
constexpr int64_t kReservedShared = 1024;                  // bytes that the driver keeps for each block
constexpr int64_t kChunkBytes = 16;

MLLOSS_HD int64_t chunk_width(DType dtype) { return kChunkBytes / bytes_of(dtype); }

// Returns the most chunks that a row can have. Chunks start at multiples of 16 bytes, so a row that starts elsewhere
// has partial chunks at its ends.
MLLOSS_HD int64_t most_chunks(int64_t labels, DType dtype) {
  const int64_t width = chunk_width(dtype);
  return (labels + 2 * width - 2) / width;
}

MLLOSS_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Returns the bytes of a wave of rows that stay in L2 until they are read again.
inline int64_t l2_share(const DeviceFacts& facts) { return facts.l2_bytes * 2 / 5; }

}  // namespace mlloss
