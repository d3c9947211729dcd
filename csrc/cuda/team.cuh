// Row-wise losses: a team of blocks keeps a row in registers, so that the logits are read once and the gradient is
// written once. Two barriers a row:
//
//   all: sums | barrier | warp 0: joins block and team, finalizes | barrier | all: gradient, then the next row's loads
//             |         | warp 1: prepares the next row's targets |         |      into the same registers
//             |         | others: clear the targets before        |         |
//
// Blocks of other teams on the same multiprocessor run while one waits.
#pragma once

#include "general_row.cuh"
#include "loss_traits.h"
#include "team_join.cuh"

namespace mlloss {
namespace cuda {

// What follows the sums of a row: the usual gradient, sums again because they overflowed or vanished without a maximum,
// a gradient with maxima, or zeros because the row's weight is 0.
enum class RowMode : int { kUsual, kAgain, kShifted, kZero };

// The results of a row that all threads of a team get from warp 0 of their block.
template <class Loss>
struct Verdict {
  Array<float, Loss::kCoefficients> coefficients;  // times the factor of the row
  StatisticsOf<Loss, float> stats;                 // for rows with shifted sums and for sums of a second pass
  RowMode mode;
};

// The steps of warp 0 between the two barriers of a row.
template <template <class> class LossTemplate>
class RowResults {
 public:
  using Loss = LossTemplate<float>;
  using Stats = StatisticsOf<Loss, float>;
  using SecondSums = SecondPassSums<Loss, float>;

  MLLOSS_DEVICE RowResults(const DeviceCall& call, const ForwardOutputs& out, const Loss& loss, Verdict<Loss>* verdict,
                           bool writer, float scale)
      : call_(call),
        out_(out),
        loss_(loss),
        verdict_(verdict),
        writer_(writer),
        factor_(call_factor<float>(call) * scale) {}

  // Starts to load what finalize() needs of the row.
  MLLOSS_DEVICE void start(int row) { weight_ = sample_weight<float>(call_, row); }

  // Publishes the statistics of the row before a further visit.
  MLLOSS_DEVICE void publish(const Stats& stats, RowMode mode) const {
    if (threadIdx.x != 0) return;
    verdict_->stats = stats;
    verdict_->mode = mode;
  }

  // Computes value and coefficients, stores them, and publishes the coefficients. Thread 0 adds the value to `total`.
  MLLOSS_DEVICE void finalize(int row, const Stats& stats, const SecondSums& second_sums, double* total) const {
    float value;
    const auto c = mlloss::finalize<Loss, float>(loss_, stats, second_sums, value);
    if (threadIdx.x != 0) return;
    verdict_->coefficients = Loss::scaled(c, factor_ * weight_);
    verdict_->mode = weight_ == 0.0f ? RowMode::kZero : Loss::zero_maxima(c) ? RowMode::kUsual : RowMode::kShifted;
    if (!writer_) return;
    value = weight_ == 0.0f ? 0.0f : value * weight_;
    float* const coefficients = static_cast<float*>(out_.coefficients) + row;
#pragma unroll
    for (int k = 0; k < Loss::kCoefficients; ++k) coefficients[k * call_.rows] = c[k];
    if (out_.values) static_cast<float*>(out_.values)[row] = value;
    *total += static_cast<double>(value);
  }

 private:
  const DeviceCall& call_;
  const ForwardOutputs& out_;
  const Loss& loss_;
  Verdict<Loss>* const verdict_;
  const bool writer_;
  const float factor_;
  float weight_ = 1.0f;
};

// Returns an element with the values that the terms of a sum share.
template <class Loss, Targets kTargets>
MLLOSS_DEVICE auto prepared(const Element<float, kTargets>& e) {
  if constexpr (kSharesPower<Loss> && kTargets != Targets::kSoft) {
    const float power = logistic_power(e.s), rest = reciprocal(1.0f + power);
    return ReadyElement<float, kTargets>{{e.s, e.y, e.w}, {power * rest, rest, 0.0f}, power};
  } else {
    return e;
  }
}

// Takes the sums of a row with all maxima at 0, and leaves what usual_gradient() needs in place of the logits.
template <class Loss, class Row>
MLLOSS_DEVICE void first_visit(const Loss& loss, Row& row, int r, Array<float, Loss::kSums>& sums) {
  if constexpr (Loss::kSlopes && Row::kIsHard) {
    if (loss.slopes_serve()) {
      return row.first_sum_with_slopes(r, sums, [&](auto e, float& slope) { return loss.sums_and_slope(e, slope); });
    }
  }
  row.first_sum(r, sums, [&](auto e) { return loss.first_sums(prepared<Loss>(e)); });
}

// Stores the gradient of a row whose maxima are 0.
template <class Loss, class Row>
MLLOSS_DEVICE void usual_gradient(const Loss& loss, Row& row, int r, const Array<float, Loss::kCoefficients>& c,
                                  void* gradient) {
  const auto of_element = [&](auto e) { return loss.gradient_at_zero_maxima(prepared<Loss>(e), c); };
  if constexpr (Loss::kSlopes) {
    if (loss.slopes_serve()) {
      const auto unscaled = Loss::scaled(c, 1.0f / Row::kSlopeScale);
      return row.gradient_of_slopes(r, gradient, of_element,
                                    [&](auto e, float slope) { return loss.slope_gradient(e, slope, unscaled); });
    }
  }
  row.gradient(r, gradient, of_element);
}

template <class Loss, class Row>
MLLOSS_DEVICE void store_gradient(const Loss& loss, Row& row, int r, const Verdict<Loss>& verdict, void* gradient) {
  const auto c = verdict.coefficients;
  const bool zero = verdict.mode == RowMode::kZero;
  const auto of_element = [&](auto e) { return zero ? 0.0f : loss.gradient(e, c); };
  if constexpr (!Row::kIsHard) {
    row.gradient(r, gradient, of_element);  // one body for every row: this code is large
  } else if (verdict.mode == RowMode::kUsual) {
    usual_gradient(loss, row, r, c, gradient);
  } else {
    row.gradient_rarely(r, gradient, of_element);
  }
}

// Returns the statistics of a row whose sums overflow or vanish without a maximum, to all threads of the team.
template <class Loss, class Row, class TeamOfRow, class Results>
MLLOSS_DEVICE StatisticsOf<Loss, float> shifted_statistics(const Loss& loss, Row& row, int r, TeamOfRow& team,
                                                           const Results& results, const Verdict<Loss>& verdict) {
  const bool joins = threadIdx.x < kWarpLanes;
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
    stats = verdict.stats;
  }
  return stats;
}

template <class Loss, class In, FastPath kFastPath>
using RowOf = std::conditional_t<kFastPath == FastPath::kNone, GeneralRow<Loss, In>,
                                 HardRow<In, kFastPath == FastPath::kBools, kRolled<Loss>>>;

template <class Loss>
constexpr int kTeamPackets =
    Loss::kSums > Loss::kMaxima ? (Loss::kSums > Loss::kSecondPassSums ? Loss::kSums : Loss::kSecondPassSums)
                                : (Loss::kMaxima > Loss::kSecondPassSums ? Loss::kMaxima : Loss::kSecondPassSums);

// kFastPath: what the call's targets are if it has no options; kNone serves every call.
template <template <class> class LossTemplate, class In, FastPath kFastPath>
__global__ void __launch_bounds__(kTeamThreads, (kTeamBlocks<LossTemplate<float>, kFastPath>))
    team_rows(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
              const __grid_constant__ TeamLaunch launch, const __grid_constant__ Total total) {
  MLLOSS_DYNAMIC_SHARED(unsigned char, memory);
  using Loss = LossTemplate<float>;
  using Row = RowOf<Loss, In, kFastPath>;
  MLLOSS_SHARED(Verdict<Loss>, verdict, [1]);
  MLLOSS_SHARED(double, value_sum, [1]);  // only thread 0 uses it; in a register it would cost every thread one
  const Loss loss(call.parameters.values);
  Team<kTeamPackets<Loss>> team(launch);
  const int rows = static_cast<int>(call.rows), first = team.first_row(), step = team.row_step();
  if (threadIdx.x == 0) value_sum[0] = 0.0;
  if (first < rows) {
    Row row(call, launch, team.rank(), memory);
    RowResults<LossTemplate> results(call, out, loss, verdict, team.rank() == 0, row.scale());
    const bool joins = threadIdx.x < kWarpLanes;
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
        bool shifts = false;
        if constexpr (Loss::kMaxima > 0) {
          shifts = loss.needs_max_shift(stats.sums);
          stats.maxima = Loss::first_maxima(stats.sums);
        }
        if (shifts || Loss::kSecondPassSums > 0) {
          results.publish(stats, shifts ? RowMode::kAgain : RowMode::kUsual);
        } else {
          results.finalize(r, stats, {}, value_sum);
        }
      }
      row.prepare(next, more);
      __syncthreads();

      if (Loss::kSecondPassSums > 0 || (Loss::kMaxima > 0 && verdict[0].mode == RowMode::kAgain)) {
        StatisticsOf<Loss, float> stats = verdict[0].stats;
        if constexpr (Loss::kMaxima > 0) {
          if (verdict[0].mode == RowMode::kAgain) {
            stats = shifted_statistics(loss, row, r, team, results, verdict[0]);
          }
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

      if (out.gradient) {
        store_gradient(loss, row, r, verdict[0], out.gradient);
      }
      row.advance(next, more);
    }
  }
  add_to_total<float>(call, total, threadIdx.x == 0 ? value_sum[0] : 0.0, blockIdx.x, gridDim.x);
  team.leave();
}

}  // namespace cuda
}  // namespace mlloss
