// The results of a row, which all threads of a team share, and the visits of the row that lead to them.
#pragma once

#include <algorithm>

#include "team_join.cuh"

namespace mlloss {
namespace cuda {

// The step that follows the sums of a row:
//   kUsual    the gradient with all maxima at 0
//   kAgain    maxima and sums once more, because the sums overflowed or vanished without maxima
//   kShifted  the gradient with maxima
//   kZero     a gradient of zeros, because the row's weight is 0
enum class RowMode : int { kUsual, kAgain, kShifted, kZero };

// The results of a row that all threads of a team get from warp 0 of their block.
template <class Loss>
struct SharedResults {
  Array<float, Loss::kCoefficients> coefficients;  // times the factor of the row
  StatisticsOf<Loss, float> stats;                 // for rows with shifted sums and for sums of a second pass
  RowMode mode;
  // Only thread 0 uses these; in registers they would cost every thread some.
  float factor;      // of every row
  double value_sum;  // of the block's rows so far
};

// The visits of a row, in their order. Most rows need the first and the last one, and kSecondPassSums if the loss has
// such sums.
enum class Visit : int { kSums, kMaxima, kShiftedSums, kSecondPassSums, kGradient, kNone };

// Returns the visit that follows.
template <class Loss>
MLLOSS_DEVICE Visit visit_after(Visit visit, const SharedResults<Loss>& shared, bool gradient) {
  if (Loss::kMaxima > 0 && visit == Visit::kSums && shared.mode == RowMode::kAgain) return Visit::kMaxima;
  if (Loss::kMaxima > 0 && visit == Visit::kMaxima) return Visit::kShiftedSums;
  if (Loss::kSecondPassSums > 0 && visit < Visit::kSecondPassSums) return Visit::kSecondPassSums;
  return gradient && visit != Visit::kGradient ? Visit::kGradient : Visit::kNone;
}

// The sums or maxima that a thread takes in one visit of a row.
template <class Loss>
struct VisitSums {
  const Visit visit;
  StatisticsOf<Loss, float> stats = identity<Loss, float>();
  SecondPassSums<Loss, float> second_sums{};
  decltype(Loss::second_pass_input(stats)) input{};

  MLLOSS_DEVICE VisitSums(Visit v, const SharedResults<Loss>& shared) : visit(v) {
    if (visit == Visit::kShiftedSums) stats.maxima = shared.stats.maxima;
    if (visit == Visit::kSecondPassSums) input = Loss::second_pass_input(shared.stats);
  }

  // Adds an element, in any visit between the first and the last one.
  template <class E>
  MLLOSS_DEVICE void add_rarely(const Loss& loss, const E& e) {
    if constexpr (Loss::kSecondPassSums > 0) {
      if (visit == Visit::kSecondPassSums) return add(second_sums, loss.second_pass_sums(e, input));
    }
    if constexpr (Loss::kMaxima > 0) {
      if (visit == Visit::kMaxima) {
        loss.maxima(e, stats.maxima);
      } else {
        add(stats.sums, loss.sums(e, stats.maxima));
      }
    }
  }
};

// The most values that a block sends in a turn.
template <class Loss>
constexpr int kTeamPackets = std::max({Loss::kMaxima, Loss::kSums, Loss::kSecondPassSums});

// The joins of a row's visits, and its results. Warp 0 does most of this.
template <template <class> class LossTemplate>
class RowResults {
 public:
  using Loss = LossTemplate<float>;
  using Stats = StatisticsOf<Loss, float>;

  // `scale` multiplies gradients.
  MLLOSS_DEVICE RowResults(const DeviceCall& call, const ForwardOutputs& out, const Loss& loss,
                           Team<kTeamPackets<Loss>>& team, SharedResults<Loss>& shared, float scale)
      : call_(call), out_(out), loss_(loss), team_(team), shared_(shared) {
    if (threadIdx.x != 0) return;
    shared_.factor = call_factor<float>(call) * scale;
    shared_.value_sum = 0.0;
  }

  // Starts to load what finalize() needs of the row.
  MLLOSS_DEVICE void start(int row) {
    if (joins()) weight_ = sample_weight<float>(call_, row);
  }

  // Joins the sums of all threads of the team, and publishes what the next visit needs.
  MLLOSS_DEVICE void finish(int row, VisitSums<Loss>& own) {
    if constexpr (Loss::kMaxima > 0) {
      if (own.visit == Visit::kMaxima) {
        if (join<Maximum>(own.stats.maxima, Loss::initial_maximum())) publish(own.stats, RowMode::kAgain);
        return;
      }
    }
    if constexpr (Loss::kSecondPassSums > 0) {
      if (own.visit == Visit::kSecondPassSums) {
        if (join<Sum>(own.second_sums, 0.0f)) finalize(row, shared_.stats, own.second_sums);
        return;
      }
    }
    if (!join<Sum>(own.stats.sums, 0.0f)) return;
    bool again = false;
    if (own.visit == Visit::kSums) {
      again = loss_.needs_max_shift(own.stats.sums);
      own.stats.maxima = Loss::first_maxima(own.stats.sums);
    }
    if (again || Loss::kSecondPassSums > 0) {
      publish(own.stats, again ? RowMode::kAgain : RowMode::kUsual);
    } else {
      finalize(row, own.stats, {});
    }
  }

  // Adds the values of the block's rows to the total, and ends the block's part.
  MLLOSS_DEVICE void end(const Total& total) {
    add_to_total<float>(call_, total, threadIdx.x == 0 ? shared_.value_sum : 0.0, blockIdx.x, gridDim.x);
    team_.leave();
  }

 private:
  const DeviceCall& call_;
  const ForwardOutputs& out_;
  const Loss& loss_;
  Team<kTeamPackets<Loss>>& team_;
  SharedResults<Loss>& shared_;
  float weight_ = 1.0f;

  static MLLOSS_DEVICE bool joins() { return this_warp() == 0; }

  // Joins the values of all threads of the team. Only warp 0 of each block gets the results; the function returns true
  // to it.
  template <class How, int N>
  MLLOSS_DEVICE bool join(Array<float, N>& values, float neutral) {
    values = join_block<How>(values, neutral);
    if (!joins()) return false;
    values = team_.template join<How>(values, neutral);
    return true;
  }

  MLLOSS_DEVICE void publish(const Stats& stats, RowMode mode) const {
    if (threadIdx.x != 0) return;
    shared_.stats = stats;
    shared_.mode = mode;
  }

  // Computes value and coefficients, and publishes the coefficients. The first block of the team stores both.
  MLLOSS_DEVICE void finalize(int row, const Stats& stats, const SecondPassSums<Loss, float>& second_sums) const {
    float value;
    const auto c = mlloss::finalize<Loss, float>(loss_, stats, second_sums, value);
    if (threadIdx.x != 0) return;
    shared_.coefficients = Loss::scaled(c, shared_.factor * weight_);
    shared_.mode = weight_ == 0.0f ? RowMode::kZero : Loss::zero_maxima(c) ? RowMode::kUsual : RowMode::kShifted;
    if (team_.rank() != 0) return;
    value = store_results<float>(out_, c, value, weight_, call_.rows, row);
    shared_.value_sum += static_cast<double>(value);
  }
};

}  // namespace cuda
}  // namespace mlloss
