// Row-wise losses: a team of blocks keeps a row in registers, so that the logits are read once and the gradient is
// written once. Most losses need two barriers a row:
//
//   all: sums | barrier | warp 0: joins block and team, finalizes | barrier | all: gradient, then the next row's loads
//             |         | warp 1: prepares the next row's targets |         |      into the same registers
//             |         | others: clear the targets before        |         |
//
// Blocks of other teams on the same multiprocessor run while one waits.
#pragma once

#include "../device/row_visits.cuh"

namespace mlloss {
namespace cuda {

// The most values that a block sends in a turn.
template <class Loss>
constexpr int kTeamPackets =
    Loss::kSums > Loss::kMaxima ? (Loss::kSums > Loss::kSecondPassSums ? Loss::kSums : Loss::kSecondPassSums)
                                : (Loss::kMaxima > Loss::kSecondPassSums ? Loss::kMaxima : Loss::kSecondPassSums);

// kFastPath is the kind of targets of a call without options. general_team_rows() serves all other calls.
template <template <class> class LossTemplate, class In, FastPath kFastPath>
__global__ void __launch_bounds__(kTeamThreads, (kTeamBlocks<LossTemplate<float>, kFastPath>))
    team_rows(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
              const __grid_constant__ TeamLaunch launch, const __grid_constant__ Total total) {
  MLLOSS_DYNAMIC_SHARED(unsigned char, memory);
  using Loss = LossTemplate<float>;
  using Row = HardRow<In, kFastPath == FastPath::kBools, kRolled<Loss>>;
  MLLOSS_SHARED(SharedResults<Loss>, shared, [1]);
  MLLOSS_SHARED(double, value_sum, [1]);  // only thread 0 uses it; in a register it would cost every thread one
  const Loss loss(call.parameters.values);
  Team<kTeamPackets<Loss>> team(launch);
  const int rows = static_cast<int>(call.rows), first = team.first_row(), step = team.row_step();
  if (threadIdx.x == 0) value_sum[0] = 0.0;
  if (first < rows) {
    Row row(call, launch, team.rank(), memory);
    RowResults<LossTemplate> results(call, out, loss, shared, team.rank() == 0, 1.0f);
    const bool joins = this_warp() == 0;
    row.begin(first);
    for (int r = first; r < rows; r += step) {
      const bool more = r < rows - step;
      const int next = more ? r + step : r;
      row.find(next);
      if (joins) results.start(r);
      Array<float, Loss::kSums> sums{};
      first_visit(loss, row, r, sums);
      sums = join_block<Sum>(sums, 0.0f);
      if (joins) {
        StatisticsOf<Loss, float> stats = identity<Loss, float>();
        stats.sums = team.template join<Sum>(sums, 0.0f);
        const bool shifts = loss.needs_max_shift(stats.sums);
        stats.maxima = Loss::first_maxima(stats.sums);
        if (shifts || Loss::kSecondPassSums > 0) {
          results.publish(stats, shifts ? RowMode::kAgain : RowMode::kUsual);
        } else {
          results.finalize(r, stats, {}, value_sum);
        }
      }
      row.prepare(next, more);
      __syncthreads();

      if (Loss::kSecondPassSums > 0 || (Loss::kMaxima > 0 && shared[0].mode == RowMode::kAgain)) {
        StatisticsOf<Loss, float> stats = shared[0].stats;
        if constexpr (Loss::kMaxima > 0) {
          if (shared[0].mode == RowMode::kAgain) stats = shifted_statistics(loss, row, r, team, results, shared[0]);
        }
        SecondPassSums<Loss, float> second_sums{};
        if constexpr (Loss::kSecondPassSums > 0) {
          const auto input = Loss::second_pass_input(stats);
          row.sum_of_positives(r, second_sums, [&](auto e) { return loss.second_pass_sums(e, input); });
          second_sums = join_block<Sum>(second_sums, 0.0f);
          if (joins) second_sums = team.template join<Sum>(second_sums, 0.0f);
        }
        if (joins) results.finalize(r, stats, second_sums, value_sum);
        __syncthreads();
      }

      if (out.gradient) store_gradient(loss, row, r, shared[0], out.gradient);
      row.advance(next, more);
    }
  }
  add_to_total<float>(call, total, threadIdx.x == 0 ? value_sum[0] : 0.0, blockIdx.x, gridDim.x);
  team.leave();
}

}  // namespace cuda
}  // namespace mlloss
