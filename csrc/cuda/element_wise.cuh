// Element-wise losses: value and gradient in one visit, one read and one write.
#pragma once

#include "../core/launch_plan.h"
#include "gradient_output.cuh"

namespace mlloss {
namespace cuda {

// Values and gradients of a chunk, gradients times `factor`; values are dead code where unused.
template <class Loss, class T, int V>
MLLOSS_DEVICE void evaluate_chunk(const Loss& loss, const Chunk<T, V>& chunk, T factor, T* values, T* g) {
  with_kind(chunk, [&](auto kind) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const auto e = element(kind, chunk, i);
      const auto r = loss.evaluate(e);
      values[i] = r.value * e.w;
      g[i] = r.gradient * (e.w * factor);
    }
  });
}

template <class In>
MLLOSS_DEVICE void store_values(Compute<In>* out, const LogitsRow<In>& row, int label, const Compute<In>* values) {
#pragma unroll
  for (int i = 0; i < kWidth<In>; ++i) {
    if (row.inside(label + i)) out[label + i] = values[i];
  }
}

// partials: [blocks], each block's sum of values; or null.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, kUnitBlocks<In>)
    element_wise(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                 const __grid_constant__ Units units, double* partials) {
  using T = Compute<In>;
  const LossTemplate<T> loss(call.parameters.values);
  RowReader<In> reader(call);
  const T factor = call_factor<T>(call) * reader.scale();
  double total = 0.0;
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    const T weight = sample_weight<T>(call, r);
    const bool zero = weight == T(0);
    In* gradient = out.gradient ? static_cast<In*>(out.gradient) + r * call.labels : nullptr;
    T* all_values = out.values ? static_cast<T*>(out.values) + r * call.labels : nullptr;
    T sum = T(0);
    reader.start(r);
    for_tile(units, row, tile, [&](int i, uint4 raw) {
      const RowChunk<In> chunk = read_chunk(reader, row, i, raw);
      T values[kWidth<In>], g[kWidth<In>];
      evaluate_chunk(loss, chunk, factor * weight, values, g);
      clear_excluded(chunk, zero, values);
      T chunk_sum = T(0);
#pragma unroll
      for (int j = 0; j < kWidth<In>; ++j) {
        values[j] *= weight;
        chunk_sum += values[j];
      }
      sum += chunk_sum;
      if (all_values) store_values(all_values, row, chunk.label, values);
      if (!gradient) return;
      clear_excluded(chunk, zero, g);
      store_chunk(gradient, row, chunk.label, g);
    });
    total += static_cast<double>(sum);
  });
  if (!partials) return;
  total = block_sum(Array<double, 1>{{total}})[0];
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, kUnitBlocks<In>)
    element_wise_backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
                          const __grid_constant__ Units units, const __grid_constant__ UnitSums sums) {
  using T = Compute<In>;
  const LossTemplate<T> loss(call.parameters.values);
  RowReader<In> reader(call);
  GradientOutput<In> output(call, out, sums);
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    reader.start(r);
    output.start(r, reader.scale());
    for_tile(units, row, tile, [&](int i, uint4 raw) {
      const RowChunk<In> chunk = read_chunk(reader, row, i, raw);
      T values[kWidth<In>], g[kWidth<In>];
      evaluate_chunk(loss, chunk, output.factor(), values, g);
      output.put(row, chunk, raw, g);
    });
    output.finish(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
