// A forward and a backward pass on the CPU: memory for partial results, and the order of the kernels.
#pragma once

#include <algorithm>

#include "program.h"

namespace mlloss {
namespace cpu {

inline int64_t tiles_of(int64_t labels) { return (labels + kLabelsPerUnit - 1) / kLabelsPerUnit; }

constexpr int64_t kElementsWorthAThread = 16384;

// Calls the kernel for n items of `weight` elements each.
inline void parallel(Kernel kernel, const Work& work, int64_t n, int64_t weight) {
  const int64_t grain = std::max<int64_t>(1, kElementsWorthAThread / std::max<int64_t>(1, weight));
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { kernel(work, begin, end); });
}

// True if each thread processes whole rows, which are in cache at their second visit. All threads need enough rows.
inline bool by_rows(const Call& call) {
  return call.grouping == Grouping::kSamples &&
         (call.rows >= 4 * torch::stable::get_num_threads() || tiles_of(call.labels) < 2);
}

inline void store_total(const Call& call, const std::vector<double>& values, void* out) {
  double total = 0.0;
  for (const double value : values) total += value;
  total *= call.factor;
  if (call.logits_dtype == DType::kDouble) {
    if (call.normalizer) total /= *static_cast<const double*>(call.normalizer);
    *static_cast<double*>(out) = total;
  } else {
    if (call.normalizer) total /= static_cast<double>(*static_cast<const float*>(call.normalizer));
    *static_cast<float*>(out) = static_cast<float>(total);
  }
}

inline void run_forward(const Program& program, const Call& call, ForwardOutputs out) {
  const LossKernels& kernels = program.kernels;
  std::vector<double> coefficients;
  if (!out.coefficients && !kernels.element_wise) {
    coefficients.resize(static_cast<size_t>(kernels.coefficients * group_count(call)));
    out.coefficients = coefficients.data();
  }
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  const int64_t unit_size = std::min(call.labels, kLabelsPerUnit);
  std::vector<double> values(static_cast<size_t>(kernels.element_wise ? units : group_count(call)));
  std::vector<double> statistics;
  Work work{&call, &out, nullptr, values.data(), nullptr, nullptr, nullptr};
  program.name_terms(work);
  if (kernels.element_wise) {
    parallel(out.other_gradient ? kernels.pairs : kernels.elements, work, units, unit_size);
  } else if (call.grouping == Grouping::kMacro) {
    parallel(kernels.macro, work, tiles, unit_size * call.rows);
  } else if (by_rows(call)) {
    parallel(kernels.rows, work, call.rows, call.labels);
  } else {
    statistics.resize(static_cast<size_t>(units * kernels.statistics));
    work.unit_statistics = statistics.data();
    parallel(kernels.statistics_of, work, units, unit_size);
    if (kernels.second_pass) parallel(kernels.second_pass, work, units, unit_size);
    kernels.finalize(work, 0, group_count(call));
    if (out.gradient) {
      parallel(kernels.gradient, work, units, unit_size);
    } else if (kernels.element_values) {
      parallel(kernels.element_values, work, units, unit_size);
    }
    if (kernels.element_values) kernels.finalize(work, 0, group_count(call));
  }
  if (out.total) store_total(call, values, out.total);
}

// ---- backward -------------------------------------------------------------------------------------------

template <class T>
inline void sum_rows(const std::vector<double>& units, int64_t rows, void* out) {
  const int64_t tiles = rows > 0 ? static_cast<int64_t>(units.size()) / rows : 0;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0.0;
    for (int64_t t = 0; t < tiles; ++t) sum += units[static_cast<size_t>(row * tiles + t)];
    static_cast<T*>(out)[row] = static_cast<T>(sum);
  }
}

inline void sum_rows(DType dtype, const std::vector<double>& units, int64_t rows, void* out) {
  dtype == DType::kDouble ? sum_rows<double>(units, rows, out) : sum_rows<float>(units, rows, out);
}

inline void run_backward(const Program& program, const Call& call, const BackwardOutputs& out) {
  const LossKernels& kernels = program.kernels;
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  const int64_t unit_size = std::min(call.labels, kLabelsPerUnit);
  std::vector<double> rows(out.row_gradient ? static_cast<size_t>(units) : 0);
  std::vector<double> scales(out.scale_gradient ? static_cast<size_t>(units) : 0);
  Work work{&call, nullptr, &out, nullptr, nullptr, nullptr, nullptr};
  program.name_terms(work);
  // This pass comes first, because an in-place gradient overwrites the logits.
  if (out.label_gradient) parallel(kernels.label_gradient, work, tiles, unit_size * call.rows);
  if (out.row_gradient) work.unit_row_gradients = rows.data();
  if (out.scale_gradient) work.unit_scale_gradients = scales.data();
  if (out.gradient || out.row_gradient || out.scale_gradient) {
    const Kernel elements = out.other_gradient ? kernels.pairs : kernels.elements;
    parallel(kernels.element_wise ? elements : kernels.gradient, work, units, unit_size);
  }
  if (out.row_gradient) sum_rows(call.logits_dtype, rows, call.rows, out.row_gradient);
  if (out.scale_gradient) sum_rows(call.logits_dtype, scales, call.rows, out.scale_gradient);
}

}  // namespace cpu
}  // namespace mlloss
