// The gradients of both logits of a loss that compares two, and its value, in one visit: two reads and two writes.
#pragma once

#include "element_wise.cuh"

namespace mlloss {
namespace cuda {

// Serves a forward pass, with total.value and without a grad_output, and a backward pass, without total.value.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kUnitBlocks<LossTemplate<Compute<In>>, In>))
    pair_gradients(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
                   const __grid_constant__ Units units, const __grid_constant__ Total total) {
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  constexpr int V = kWidth<In>;
  const Loss loss(call.parameters.values);
  RowReader<Loss, In> reader(call);
  const UnitSums no_sums{};
  GradientOutput<In> output(call, out, no_sums);
  WarpSum of_warp;
  for_units(units, [&](int64_t r, int tile) {
    LogitsRow<In> row(call, r);
    reader.start(r);
    output.start(r, reader.scale());
    const T weight = sample_weight<T>(call, r), factor = output.factor();
    const GradientRow<In> memory(row, out.gradient, r), other_memory(row, out.other_gradient, r);
    T sum = T(0);
    tile_of(units, row, r, tile).run(reader, row, false, [&](auto kind, const RowChunk<In>& chunk, uint4 logits) {
      T values[V], g[V], other[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const auto e = element(kind, chunk, i);
        const auto both = loss.evaluate_both(e);
        values[i] = both.value * e.w;
        g[i] = both.gradient * (e.w * factor);
        other[i] = both.other * (e.w * factor);
      }
      clear_excluded(kind, chunk, output.zero(), values);
#pragma unroll
      for (int i = 0; i < V; ++i) sum += values[i];
      output.put(kind, reader, memory, chunk, logits, g);
      output.put(kind, reader, other_memory, chunk, logits, other);
    });
    of_warp.add(output.zero() ? T(0) : sum * weight);
  });
  add_threads_to_total<T>(call, total, of_warp.once());
}

}  // namespace cuda
}  // namespace mlloss
