// The launch planner: from a call's shape and a device's facts to how its kernels are launched. It is plain host C++,
// so that plans can be tested and shown without a GPU. The same input always gives the same plan.
//
//   const Problem problem{rows, labels, DType::kBFloat16, Grouping::kSamples};
//   const LaunchPlan plan = plan_forward(problem, known_device(90));
//   puts(describe(plan).c_str());
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

#include "launch_model.h"
#include "launch_types.h"

namespace mlloss {

constexpr int64_t kStaticShared = 2048;  // the maximum per kernel, for reductions
// Split replaces a team if it is predicted to be faster by this factor: its second read may miss the cache.
constexpr double kSplitFaster = 1.1;

// Returns the smallest power of two from 32 on that leaves each thread at most `chunks_per_thread` chunks, or `most`.
inline int threads_for(int64_t chunks, int64_t chunks_per_thread, int most) {
  int threads = kWarpThreads;
  while (threads < most && threads * chunks_per_thread < chunks) threads *= 2;
  return std::min(threads, most);
}

inline LaunchPlan common_plan(const Problem& problem, Strategy strategy, int threads) {
  LaunchPlan plan{};
  plan.strategy = strategy;
  plan.threads = threads;
  plan.vector_width = problem.dense_labels ? static_cast<int>(chunk_width(problem.dtype)) : 1;
  plan.tiles = 1;
  plan.team = 1;
  plan.rows_per_wave = problem.rows;
  plan.reads = 1;
  return plan;
}

// ---- tiles in any order -----------------------------------------------------------------------------

constexpr int64_t kUnitsPerSm = 16;  // enough to keep a multiprocessor busy to the end

inline int64_t most_unit_blocks(const DeviceFacts& facts) { return int64_t{32} * facts.sm_count; }

// Returns a grid that strides over units in any order. A thread has up to `most` chunks of a tile, because long tiles
// save work at the start of rows. It has fewer, down to `fewest`, if there are too few units to balance the work, and
// even fewer if multiprocessors would otherwise be idle.
inline LaunchPlan plan_tiles(const Problem& problem, const DeviceFacts& facts, Strategy strategy, int64_t most,
                             int64_t fewest) {
  const int64_t chunks = std::max<int64_t>(1, most_chunks(problem.labels, problem.dtype));
  LaunchPlan plan = common_plan(problem, strategy, threads_for(chunks, 4, kUnitThreads));
  const int64_t resident = static_cast<int64_t>(kUnitThreadsPerSm) / plan.threads * facts.sm_count;
  int64_t each = most;
  const auto units = [&] { return problem.rows * divide_up(chunks, plan.threads * each); };
  while (each > fewest && units() < kUnitsPerSm * facts.sm_count) each /= 2;
  while (each > 1 && units() < resident) each /= 2;
  plan.chunks_per_tile = plan.threads * each;
  plan.tiles = divide_up(chunks, plan.chunks_per_tile);
  plan.blocks = std::max<int64_t>(1, std::min(problem.rows * plan.tiles, most_unit_blocks(facts)));
  return plan;
}

// Plans element-wise losses and every gradient from known coefficients.
inline LaunchPlan plan_units(const Problem& problem, const DeviceFacts& facts) {
  LaunchPlan plan = plan_tiles(problem, facts, Strategy::kElementWise, 8, 1);
  plan.predicted = predict(problem, plan, facts);
  return plan;
}

// Plans a split pass. The rows of a wave fill at most 40% of L2 together, so that their second read comes from there. A
// pass without a gradient reads once, in one wave; it has the same tiles, and therefore the same value bit for bit.
inline LaunchPlan plan_split(const Problem& problem, const DeviceFacts& facts) {
  Problem wave = problem;
  if (problem.grouping == Grouping::kSamples) {
    const int64_t row_bytes = std::max<int64_t>(1, problem.labels * bytes_of(problem.dtype));
    wave.rows = std::min(problem.rows, std::max<int64_t>(1, l2_share(facts) / row_bytes));
  }
  LaunchPlan plan = plan_tiles(wave, facts, Strategy::kSplit, 32, 8);
  plan.rows_per_wave = problem.gradient ? wave.rows : problem.rows;
  plan.reads = problem.gradient ? 2 : 1;
  // A micro group with no elements still needs one block.
  plan.blocks = std::max<int64_t>(1, std::min(plan.rows_per_wave * plan.tiles, most_unit_blocks(facts)));
  plan.predicted = predict(problem, plan, facts);
  return plan;
}

// ---- a row in registers -----------------------------------------------------------------------------

// Returns the bytes of three buffers that hold the targets of a tile as bits, a byte for each chunk.
inline int64_t team_shared_bytes(int64_t chunks_per_tile) { return 3 * (divide_up(chunks_per_tile, 16) * 16 + 16); }

// Returns how many chunks of a row a team keeps. Without options these are the chunks that lie inside the row.
inline int64_t chunks_of_team(const Problem& problem) {
  const bool options = problem.team_chunks < kChunksPerThread;
  const int64_t whole = problem.labels / chunk_width(problem.dtype);
  return std::max<int64_t>(1, options ? most_chunks(problem.labels, problem.dtype) : whole);
}

constexpr int64_t kMostTeamRows = INT32_MAX - (1 << 16);  // team kernels count rows, and one step more, in 32 bits

// Returns how many blocks of a team kernel a multiprocessor runs at once: registers, shared memory and the hardware's
// maximum limit them.
inline int64_t team_blocks_per_sm(const Problem& problem, const DeviceFacts& facts, int threads) {
  const int64_t most_shared =
      team_shared_bytes(int64_t{threads} * problem.team_chunks) + kStaticShared + kReservedShared;
  return std::min({int64_t{std::min(problem.team_threads_per_sm, facts.threads_per_sm) / threads},
                   int64_t{kMostBlocksPerSm}, (facts.shared_per_block + kReservedShared) / most_shared});
}

// Returns on how many multiprocessors teams run.
inline int64_t team_processors(const DeviceFacts& facts) { return std::max(1, facts.sm_count - facts.reserved); }

// Returns a plan in which `team` blocks keep a row, or fewer if these suffice. The grid is persistent, and all of its
// blocks are resident at once, because the blocks of a team wait for one another.
inline LaunchPlan team_of(const Problem& problem, int64_t resident, int threads, int64_t team) {
  const int64_t chunks = chunks_of_team(problem);
  const int64_t warps = threads / kWarpThreads;
  LaunchPlan plan = common_plan(problem, Strategy::kTeam, threads);
  plan.chunks_per_warp = static_cast<int>(divide_up(chunks, team * warps));
  plan.chunks_per_tile = warps * plan.chunks_per_warp;
  plan.team = static_cast<int>(divide_up(chunks, plan.chunks_per_tile));
  plan.tiles = plan.team;
  plan.shared_bytes = team_shared_bytes(plan.chunks_per_tile);
  plan.blocks = plan.team * std::max<int64_t>(1, std::min(problem.rows, resident / plan.team));
  return plan;
}

// True if `other` is a better plan: it has two teams at once rather than one, so that one works while the other waits,
// or its prediction is clearly faster.
inline bool is_better(const LaunchPlan& other, const LaunchPlan& plan) {
  const bool two = other.blocks > other.team, had_two = plan.blocks > plan.team;
  if (two != had_two) return two;
  return other.predicted.fraction > plan.predicted.fraction * 1.01;
}

// Finds the best team plan. For each size of blocks it tries as many teams as the device holds, and fewer and larger
// teams that process all rows in one to three rounds. Returns false if the loss has no team kernels or the device
// cannot hold a row.
inline bool plan_team(const Problem& problem, const DeviceFacts& facts, LaunchPlan* plan) {
  if (problem.grouping != Grouping::kSamples || problem.dtype == DType::kDouble || problem.rows > kMostTeamRows) {
    return false;
  }
  const int64_t chunks = chunks_of_team(problem);
  const int64_t rows = std::max<int64_t>(1, problem.rows);
  bool found = false;
  for (const int threads : {256, 192, 128, 96, 64, 32}) {
    const int64_t resident = team_blocks_per_sm(problem, facts, threads) * team_processors(facts);
    const int64_t least = divide_up(chunks, int64_t{threads} * problem.team_chunks);
    if (least > resident || chunks <= threads - kWarpThreads) continue;  // too long, or warps would be idle
    const int64_t for_two = rows >= 2 && 2 * least <= resident ? resident / 2 : resident;
    const int64_t most = std::min(for_two, divide_up(chunks, threads));
    int64_t before = 0;
    for (const int64_t rounds : {0, 3, 2, 1}) {
      const int64_t teams = rounds == 0 ? resident / least : divide_up(rows, rounds);
      const int64_t team = std::min(std::max(resident / teams, least), most);
      if (team == before) continue;
      LaunchPlan next = team_of(problem, resident, threads, team);
      next.predicted = predict(problem, next, facts);
      if (!found || is_better(next, *plan)) *plan = next;
      found = true;
      before = team;
    }
  }
  return found;
}

// ---- passes -----------------------------------------------------------------------------------------

// True if split is predicted to be clearly faster than the team plan. This is possible only for a single team with
// several rows, because nothing works while it waits. Several teams overlap, and read the logits only once.
inline bool split_is_faster(const Problem& problem, const DeviceFacts& facts, const LaunchPlan& team) {
  if (problem.rows == 1 || team.blocks > team.team) return false;
  return plan_split(problem, facts).predicted.fraction > team.predicted.fraction * kSplitFaster;
}

// `wanted` is used if it can run; split always can. The choice is made for a pass with a gradient, so that a pass
// without one has the same tiles and gives the same value, bit for bit.
inline LaunchPlan plan_forward(const Problem& problem, const DeviceFacts& facts,
                               Strategy wanted = Strategy::kAutomatic) {
  if (problem.grouping == Grouping::kElement) return plan_units(problem, facts);
  Problem both = problem;
  both.gradient = true;
  LaunchPlan team{};
  if (wanted == Strategy::kSplit || !plan_team(both, facts, &team)) return plan_split(problem, facts);
  if (wanted != Strategy::kTeam && split_is_faster(both, facts, team)) return plan_split(problem, facts);
  if (!problem.gradient) team.predicted = predict(problem, team, facts);
  return team;
}

inline LaunchPlan plan_backward(const Problem& problem, const DeviceFacts& facts) { return plan_units(problem, facts); }

// ---- sums over rows ---------------------------------------------------------------------------------

// Each thread processes `width` labels down the rows. If there are few labels, the rows are split too, and `tiles` is
// the number of splits.
inline LaunchPlan plan_down_rows(const Problem& problem, const DeviceFacts& facts, int width) {
  LaunchPlan plan = common_plan(problem, Strategy::kSplit, kLabelThreads);
  plan.vector_width = width;
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
                     number(plan.threads) + " threads, ";
  if (plan.strategy == Strategy::kTeam) {
    text += number(plan.team) + (plan.team == 1 ? " block" : " blocks") + " a row, " +
            number(divide_up(plan.chunks_per_warp, kWarpThreads)) + " chunks a thread";
  } else {
    text += number(plan.vector_width) + " elements an access, " + number(plan.tiles) + " tiles a row";
  }
  if (plan.strategy == Strategy::kSplit) text += ", " + number(plan.rows_per_wave) + " rows a wave";
  text += plan.reads == 1 ? ", logits read once" : ", logits read twice";
  if (plan.predicted.bound == Bound::kNone) return text;
  char fraction[16];
  std::snprintf(fraction, sizeof fraction, "%.2f", plan.predicted.fraction);
  return text + "; predicted " + fraction + " of the floor, bound by " + name_of(plan.predicted.bound);
}

}  // namespace mlloss
