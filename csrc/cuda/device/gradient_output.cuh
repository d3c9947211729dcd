// The last steps of a backward pass: the gradient is multiplied by grad_output, set to exactly 0 for excluded elements,
// summed for row_offset and logit_scale, and stored.
#pragma once

#include "units.cuh"

namespace mlloss {
namespace cuda {

// The memory for sums of the gradient over the labels of each unit, [rows * tiles]. A pointer is null if its sums are
// not needed.
struct UnitSums {
  double* row;
  double* scale;
};

template <class In>
class GradientOutput {
 public:
  using T = Compute<In>;
  static constexpr int V = kWidth<In>;

  MLLOSS_DEVICE GradientOutput(const DeviceCall& call, const BackwardOutputs& out, const UnitSums& sums)
      : call_(call), out_(out), sums_(sums) {}

  // Starts a row. The factor includes logit_scale, unless sums of the gradient without it are needed.
  MLLOSS_DEVICE void start(int64_t row, T scale) {
    const T weight = sample_weight<T>(call_, row);
    zero_ = weight == T(0);
    factor_ = call_factor<T>(call_) * weight;
    row_ = row;
    if (out_.grad_output && out_.grad_output_label_stride == 0) factor_ *= *grad_output();
    if (!wants_sums()) factor_ *= scale;
    scale_ = scale;
    special_ = out_.grad_output_label_stride != 0 || later_scale() != T(1);
    plain_ = out_.gradient && !special_ && !wants_sums();
    row_sum_ = scale_sum_ = T(0);
  }

  MLLOSS_DEVICE T factor() const { return factor_; }
  // True if only the gradient is needed, and only the factor multiplies it.
  MLLOSS_DEVICE bool plain() const { return plain_; }
  // True if the row's weight is 0.
  MLLOSS_DEVICE bool zero() const { return zero_; }

  template <class Kind, class Reader>
  MLLOSS_DEVICE void put(Kind kind, const Reader& reader, const GradientRow<In>& memory, const RowChunk<In>& chunk,
                         uint4 raw, T* g) {
    if (Kind::kWholeAccess || (Kind::kFastPath && plain_)) return memory.store(kind, chunk.label, g);
    if (special_) apply_grad_output(chunk, g);
    reader.finish_gradient(kind, chunk, zero_, g);
    if (wants_sums()) add(raw, g);
    if (!out_.gradient) return;
    if (special_) {
#pragma unroll
      for (int i = 0; i < V; ++i) g[i] *= later_scale();
    }
    memory.store(kind, chunk.label, g);
  }

  MLLOSS_DEVICE void store_sums(int64_t unit) {
    if (!wants_sums()) return;
    const Array<T, 2> sums = block_sum(Array<T, 2>{{row_sum_, scale_sum_}});
    if (threadIdx.x != 0) return;
    if (sums_.row) sums_.row[unit] = static_cast<double>(sums[0]);
    if (sums_.scale) sums_.scale[unit] = static_cast<double>(sums[1]);
  }

 private:
  const DeviceCall& call_;
  const BackwardOutputs& out_;
  const UnitSums& sums_;
  int64_t row_;
  T factor_, scale_, row_sum_, scale_sum_;
  bool zero_;
  bool special_;  // grad_output of each element, or a scale apart from the factor, multiplies the gradient
  bool plain_;

  // Returns the row's first grad_output.
  MLLOSS_DEVICE const T* grad_output() const {
    return static_cast<const T*>(out_.grad_output) + row_ * out_.grad_output_row_stride;
  }

  // Returns the factor of the gradient that is applied after the sums.
  MLLOSS_DEVICE T later_scale() const { return wants_sums() ? scale_ : T(1); }

  MLLOSS_DEVICE bool wants_sums() const { return sums_.row || sums_.scale; }

  MLLOSS_DEVICE void apply_grad_output(const RowChunk<In>& chunk, T* g) const {
    const int64_t stride = out_.grad_output_label_stride;
    if (stride != 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (call_.inside(chunk.label + i)) g[i] *= grad_output()[(chunk.label + i) * stride];
      }
    }
  }

  MLLOSS_DEVICE void add(uint4 raw, const T* g) {
    T x[V];
    unpack<In>(raw, x);
    T sum = T(0), product = T(0);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sum += g[i];
      // A logit with a gradient of 0 must not count, even if it is infinite or NaN.
      product += g[i] == T(0) ? T(0) : g[i] * x[i];
    }
    row_sum_ += sum;
    scale_sum_ += product;
  }
};

}  // namespace cuda
}  // namespace mlloss
