// Row-wise losses: a team of blocks keeps a row in registers, so that the logits are read once and the gradient is
// written once. Most losses need two barriers a row:
//
//   all: sums | barrier | warp 0: joins block and team, finalizes | barrier | all: gradient, then the next row's loads
//             |         | warp 1: prepares the next row's targets |         |      into the same registers
//             |         | others: clear the targets before        |         |
//
// Blocks of other teams on the same multiprocessor run while one waits.
#pragma once

#include "../device/hard_row.cuh"
#include "../device/loss_traits.h"
#include "../device/row_results.cuh"

namespace mlloss {
namespace cuda {

// Takes the sums of a row with all maxima at 0, and leaves what usual_gradient() needs in place of the logits.
template <class Loss, class Row>
MLLOSS_DEVICE void first_visit(const Loss& loss, Row& row, int r, Array<float, Loss::kSums>& sums) {
  if constexpr (Loss::kSlopes) {
    if (loss.slopes_serve()) {
      return row.template first_sum<true>(r, sums, [&](auto e, float& slope) { return loss.sums_and_slope(e, slope); });
    }
  }
  row.template first_sum<false>(r, sums, [&](auto e, float&) { return loss.first_sums(prepared<Loss>(e)); });
}

// Stores the gradient of a row whose maxima are 0.
template <class Loss, class Row>
MLLOSS_DEVICE void usual_gradient(const Loss& loss, Row& row, int r, const Array<float, Loss::kCoefficients>& c,
                                  void* gradient) {
  const auto of_element = [&](auto e) { return loss.gradient_at_zero_maxima(prepared<Loss>(e), c); };
  if constexpr (Loss::kSlopes) {
    if (loss.slopes_serve()) {
      const auto unscaled = Loss::scaled(c, 1.0f / Row::kSlopeScale);
      const auto of_slope = [&](auto e) { return loss.slope_gradient(e, e.s, unscaled); };
      return row.template gradient<true>(r, gradient, of_slope, of_element);
    }
  }
  row.template gradient<false>(r, gradient, of_element, of_element);
}

template <class Loss, class Row>
MLLOSS_DEVICE void store_gradient(const Loss& loss, Row& row, int r, const SharedResults<Loss>& shared,
                                  void* gradient) {
  const auto c = shared.coefficients;
  if (shared.mode == RowMode::kUsual) return usual_gradient(loss, row, r, c, gradient);
  const bool zero = shared.mode == RowMode::kZero;
  row.gradient_rarely(r, gradient, [&](auto e) { return zero ? 0.0f : loss.gradient(e, c); });
}

// kFastPath is the kind of targets of a call without options. general_team_rows() serves all other calls. A grid has no
// more teams than rows.
template <template <class> class LossTemplate, class In, FastPath kFastPath>
__global__ void __launch_bounds__(kTeamThreads, (kTeamBlocks<LossTemplate<float>, kFastPath>))
    team_rows(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
              const __grid_constant__ TeamLaunch launch, const __grid_constant__ Total total) {
  MLLOSS_DYNAMIC_SHARED(unsigned char, memory);
  using Loss = LossTemplate<float>;
  MLLOSS_SHARED(SharedResults<Loss>, shared, [1]);
  const Loss loss(call.parameters.values);
  Team<kTeamPackets<Loss>> team(launch);
  RowResults<LossTemplate> results(call, out, loss, team, shared[0], 1.0f);
  HardRow<In, kFastPath == FastPath::kBools, kRolled<Loss>> row(call, launch, team.rank(), memory);
  const int rows = static_cast<int>(call.rows), step = team.row_step();
  // The loop begins one row early: this turn only prepares the block's first row.
  for (int r = team.first_row() - step; r < rows; r += step) {
    const bool here = r >= 0, more = r < rows - step;
    const int next = more ? r + step : r;
    row.find(next);
    if (here) {
      results.start(r);
      VisitSums<Loss> first(Visit::kSums, shared[0]);
      first_visit(loss, row, r, first.stats.sums);
      results.finish(r, first);
    }
    row.prepare(next, more);
    __syncthreads();

    if (here) {
      Visit visit = visit_after(Visit::kSums, shared[0], true);
      while (visit < Visit::kSecondPassSums) {
        VisitSums<Loss> own(visit, shared[0]);
        row.rarely(r, [&](auto e) { own.add_rarely(loss, e); });
        results.finish(r, own);
        __syncthreads();
        visit = visit_after(visit, shared[0], true);
      }
      if constexpr (Loss::kSecondPassSums > 0) {
        VisitSums<Loss> own(Visit::kSecondPassSums, shared[0]);
        row.sum_of_positives(r, own.second_sums, [&](auto e) { return loss.second_pass_sums(e, own.input); });
        results.finish(r, own);
        __syncthreads();
      }
      if (out.gradient) store_gradient(loss, row, r, shared[0], out.gradient);
    }
    row.advance(next, more);
  }
  results.end(total);
}

}  // namespace cuda
}  // namespace mlloss
