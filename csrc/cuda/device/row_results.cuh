// The results of a row, which all threads of a team share, and the steps in which warp 0 computes them.
#pragma once

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
  float factor;  // of every row; only thread 0 uses it, and in a register it would cost every thread one
};

// The steps of warp 0 between the two barriers of a row.
template <template <class> class LossTemplate>
class RowResults {
 public:
  using Loss = LossTemplate<float>;
  using Stats = StatisticsOf<Loss, float>;
  using SecondSums = SecondPassSums<Loss, float>;

  MLLOSS_DEVICE RowResults(const DeviceCall& call, const ForwardOutputs& out, const Loss& loss,
                           SharedResults<Loss>* shared, bool writer, float scale)
      : call_(call), out_(out), loss_(loss), shared_(shared), writer_(writer) {
    if (threadIdx.x == 0) shared_->factor = call_factor<float>(call) * scale;
  }

  // Starts to load what finalize() needs of the row.
  MLLOSS_DEVICE void start(int row) { weight_ = sample_weight<float>(call_, row); }

  // Publishes the statistics of the row before another visit of it.
  MLLOSS_DEVICE void publish(const Stats& stats, RowMode mode) const {
    if (threadIdx.x != 0) return;
    shared_->stats = stats;
    shared_->mode = mode;
  }

  // Computes value and coefficients, stores them, and publishes the coefficients. Thread 0 adds the value to `total`.
  MLLOSS_DEVICE void finalize(int row, const Stats& stats, const SecondSums& second_sums, double* total) const {
    float value;
    const auto c = mlloss::finalize<Loss, float>(loss_, stats, second_sums, value);
    if (threadIdx.x != 0) return;
    shared_->coefficients = Loss::scaled(c, shared_->factor * weight_);
    shared_->mode = weight_ == 0.0f ? RowMode::kZero : Loss::zero_maxima(c) ? RowMode::kUsual : RowMode::kShifted;
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
  SharedResults<Loss>* const shared_;
  const bool writer_;
  float weight_ = 1.0f;
};

}  // namespace cuda
}  // namespace mlloss
