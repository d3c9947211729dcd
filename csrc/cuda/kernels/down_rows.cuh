// Sums down the rows: the statistics of groups that are labels, and sums of the gradient. A block processes some labels
// and a part of the rows.
#pragma once

#include "backward.cuh"

namespace mlloss {
namespace cuda {

// ---- statistics of labels, V labels a thread -----------------------------------------------------

constexpr int kLabelGroupBlocks = 4;  // the minimum per multiprocessor

// The number of rows that are added before their sum joins the total, which keeps rounding errors small.
constexpr int kRowsPerLabelSum = 32;

template <class Loss, class T, int V>
using LabelSums = Array<Array<T, V>, Loss::kSums>;

template <class Loss, class T, int V>
MLLOSS_DEVICE void add_labels(const Loss& loss, const Chunk<T, V>& chunk, T weight, LabelSums<Loss, T, V>& into) {
  with_kind(chunk, [&](auto kind, const Chunk<T, V>&) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const auto sums = loss.first_sums(element(kind, chunk, i));
#pragma unroll
      for (int k = 0; k < Loss::kSums; ++k) into[k][i] += weight * sums[k];
    }
  });
}

// Block (x, y) processes blockDim.x * V labels and every gridDim.y-th stretch of rows. partial_sums: [gridDim.y, kSums,
// labels].
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kLabelThreads, kLabelGroupBlocks)
    label_statistics(const __grid_constant__ DeviceCall call, Compute<In>* partial_sums) {
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  constexpr int V = kWidth<In>;
  const Loss loss(call.parameters.values);
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (begin >= call.labels) return;
  const int label = static_cast<int>(begin);
  RowReader<Loss, In> reader(call);
  LabelSums<Loss, T, V> total{};
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kRowsPerLabelSum;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerLabelSum; first < call.rows; first += stride) {
    LabelSums<Loss, T, V> stretch{};
    const int64_t end = first + kRowsPerLabelSum < call.rows ? first + kRowsPerLabelSum : call.rows;
#pragma unroll 1
    for (int64_t r = first; r < end; ++r) {
      const T weight = sample_weight<T>(call, r);
      if (weight == T(0)) continue;
      const LogitsRow<In> row(call, r);
      reader.start(r);
      T x[V];
      unpack<In>(row.load(label), x);
      add_labels(loss, reader.read(label, row.whole(label), x), weight, stretch);
    }
#pragma unroll
    for (int k = 0; k < Loss::kSums; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) total[k][i] += stretch[k][i];
    }
  }
  T* own = partial_sums + static_cast<int64_t>(blockIdx.y) * Loss::kSums * call.labels;
#pragma unroll
  for (int k = 0; k < Loss::kSums; ++k) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (begin + i < call.labels) own[k * call.labels + begin + i] = total[k][i];
    }
  }
}

// ---- sums of the gradient, for logit_bias and the thresholds of labels; a label a thread ---------

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
        reader.finish_gradient(kind, chunk, weight == T(0), g);
      });
      sum += g[0];
    }
    total += static_cast<double>(sum);
  }
  sums[blockIdx.y * call.labels + label] = total;
}

}  // namespace cuda
}  // namespace mlloss
