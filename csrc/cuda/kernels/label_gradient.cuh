// Sums of the gradient over rows, for logit_bias and the thresholds of labels. Each thread processes one label.
#pragma once

#include "backward.cuh"

namespace mlloss {
namespace cuda {

constexpr int kLabelBlocks = 8;  // the minimum per multiprocessor

// The number of rows that are summed in T; these sums are then added in double.
constexpr int kRowsPerPartialSum = 16;

// Block (x, y) processes blockDim.x labels and every gridDim.y-th group of rows. sums: [gridDim.y, labels].
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kLabelThreads,
                                  kRegisterPressure<LossTemplate<Compute<In>>> > 0 ? kLabelBlocks / 2 : kLabelBlocks)
    label_gradient(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out, double* sums) {
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  const Loss loss(call.parameters.values);
  const int64_t label = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (label >= call.labels) return;
  ChunkReader<Loss, T, 1> reader(call);
  const T base = call_factor<T>(call);
  const In* x = static_cast<const In*>(call.logits) + label * call.logits_label_stride;
  const T* grad_output = static_cast<const T*>(out.grad_output) + label * out.grad_output_label_stride;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kRowsPerPartialSum;
  double total = 0.0;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerPartialSum; first < call.rows; first += stride) {
    T sum = T(0);
    const int64_t end = first + kRowsPerPartialSum < call.rows ? first + kRowsPerPartialSum : call.rows;
    for (int64_t row = first; row < end; ++row) {
      reader.start(row);
      const T s[1] = {widen(x[row * call.logits_row_stride])};
      const Chunk<T, 1> chunk = reader.read(static_cast<int>(label), true, s);
      const T weight = sample_weight<T>(call, row);
      const T factor = base * weight * grad_output[row * out.grad_output_row_stride];
      const auto c = load_coefficients<Loss>(call, out, row, chunk.label, factor);
      T g[1];
      with_kind(chunk, [&](auto kind, const Chunk<T, 1>&) {
        chunk_gradient(kind, loss, call, chunk, factor, [&](int) { return c; }, g);
      });
      sum += chunk.excluded || weight == T(0) ? T(0) : g[0];
    }
    total += static_cast<double>(sum);
  }
  sums[blockIdx.y * call.labels + label] = total;
}

}  // namespace cuda
}  // namespace mlloss
