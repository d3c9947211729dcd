// Visits of a row that a team keeps in registers. Row is HardRow.
#pragma once

#include "hard_row.cuh"
#include "loss_traits.h"
#include "row_results.cuh"

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
  const bool zero = shared.mode == RowMode::kZero;
  const auto of_element = [&](auto e) { return zero ? 0.0f : loss.gradient(e, c); };
  if (shared.mode == RowMode::kUsual) {
    usual_gradient(loss, row, r, c, gradient);
  } else {
    row.gradient_rarely(r, gradient, of_element);
  }
}

// Returns the statistics of a row whose sums overflow or vanish with all maxima at 0, to all threads of the team.
template <class Loss, class Row, class TeamOfRow, class Results>
MLLOSS_DEVICE StatisticsOf<Loss, float> shifted_statistics(const Loss& loss, Row& row, int r, TeamOfRow& team,
                                                           const Results& results, const SharedResults<Loss>& shared) {
  const bool joins = this_warp() == 0;
  auto stats = identity<Loss, float>();
#pragma unroll 1
  for (int visit = 0; visit < 2; ++visit) {
    row.rarely(r, [&](auto e) {
      if (visit == 0) {
        loss.maxima(e, stats.maxima);
      } else {
        add(stats.sums, loss.sums(e, stats.maxima));
      }
    });
    if (visit == 0) {
      stats.maxima = join_block<Maximum>(stats.maxima, Loss::initial_maximum());
    } else {
      stats.sums = join_block<Sum>(stats.sums, 0.0f);
    }
    if (joins) {
      if (visit == 0) {
        stats.maxima = team.template join<Maximum>(stats.maxima, Loss::initial_maximum());
      } else {
        stats.sums = team.template join<Sum>(stats.sums, 0.0f);
      }
      results.publish(stats, RowMode::kAgain);
    }
    __syncthreads();
    stats = shared.stats;
  }
  return stats;
}

}  // namespace cuda
}  // namespace mlloss
