// Element-wise losses: value and gradient in one visit, with one read and one write.
#pragma once

#include "arrival.cuh"
#include "gradient_output.cuh"

namespace mlloss {
namespace cuda {

// Evaluates a chunk; gradients are multiplied by `factor`. The compiler removes values that the caller does not use.
template <class Kind, class Loss, class T, int V>
MLLOSS_DEVICE void evaluate_chunk(Kind kind, const Loss& loss, const DeviceCall& call, const Chunk<T, V>& chunk,
                                  T factor, T* values, T* g) {
  with_variant(loss, [&](auto variant) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      auto e = element(kind, chunk, i);
      if constexpr (Loss::kLabelParameter && !Kind::kFastPath) e.parameter = label_parameter(call, chunk, i);
      const auto r = evaluated<variant>(loss, e);
      values[i] = r.value * e.w;
      g[i] = r.gradient * (e.w * factor);
    }
  });
}

// Returns the sum of the values of a chunk without weights, with one logarithm: that of the product of all 1 + x, which
// is stored without its 1.
template <class Kind, class Loss, class T, int V>
MLLOSS_DEVICE T separate_chunk(Kind kind, const Loss& loss, const Chunk<T, V>& chunk, T factor, T* g) {
  static_assert(V <= 16, "a product of V terms 1 + x <= 2 must stay small");
  T rest = T(0), product = T(0);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const auto r = loss.separated(element(kind, chunk, i));
    product += r.x + product * r.x;
    rest += r.rest;
    g[i] = r.gradient * factor;
  }
  return rest + logarithm_of_one_plus(product);
}

// Returns the sum of a chunk's values. `each`: the value of each element is needed too.
template <class Kind, class Loss, class T, int V>
MLLOSS_DEVICE T sum_chunk(Kind kind, const Loss& loss, const DeviceCall& call, const Chunk<T, V>& chunk, T factor,
                          bool zero, bool each, T* values, T* g) {
  if constexpr (Loss::kSeparates && Kind::kFastPath) {
    const bool separates =
        decltype(element(kind, chunk, 0))::kNegative || loss.separates(call.label_parameter != nullptr);
    if (!each && separates) return separate_chunk(kind, loss, chunk, factor, g);
  }
  evaluate_chunk(kind, loss, call, chunk, factor, values, g);
  clear_excluded(kind, chunk, zero, values);
  T sum = T(0);
#pragma unroll
  for (int i = 0; i < V; ++i) sum += values[i];
  return sum;
}

template <class In>
MLLOSS_DEVICE void store_values(Compute<In>* out, const LogitsRow<In>& row, int label, const Compute<In>* values,
                                Compute<In> weight) {
#pragma unroll
  for (int i = 0; i < kWidth<In>; ++i) {
    if (row.inside(label + i)) out[label + i] = values[i] * weight;
  }
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kUnitBlocksOf<LossTemplate<Compute<In>>, In>))
    element_wise(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                 const __grid_constant__ Units units, const __grid_constant__ Total total) {
  using T = Compute<In>;
  const LossTemplate<T> loss(call.parameters.values);
  RowReader<LossTemplate<T>, In> reader(call);
  int turn = 0;
  const T factor = call_factor<T>(call) * reader.scale();
  double all = 0.0;
  for_units(units, [&](int64_t r, int tile) {
    LogitsRow<In> row(call, r);
    const T weight = sample_weight<T>(call, r);
    const bool zero = weight == T(0);
    if (zero) row.fast_path_starts = 0;
    T* all_values = out.values ? static_cast<T*>(out.values) + r * call.labels : nullptr;
    T sum = T(0);
    reader.start(r);
    const GradientRow<In> memory(row, out.gradient, r);
    const bool whole_accesses = !all_values && (!out.gradient || memory.whole_accesses());
    tile_of(units, row, tile, turn).run(reader, row, whole_accesses, [&](auto kind, const RowChunk<In>& chunk, uint4) {
      constexpr bool kEach = !decltype(kind)::kWholeAccess;
      T values[kWidth<In>], g[kWidth<In>];
      sum += sum_chunk(kind, loss, call, chunk, factor * weight, zero, kEach && all_values, values, g);
      if (kEach && all_values) store_values(all_values, row, chunk.label, values, weight);
      if (!out.gradient) return;
      clear_excluded(kind, chunk, zero, g);
      memory.store(kind, chunk.label, g);
    });
    all += static_cast<double>(zero ? T(0) : sum * weight);
  });
  if (!total.value) return;
  all = block_sum(Array<double, 1>{{all}})[0];
  add_to_total<T>(call, total, all, blockIdx.x, gridDim.x);
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kUnitBlocksOf<LossTemplate<Compute<In>>, In>))
    element_wise_backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
                          const __grid_constant__ Units units, const __grid_constant__ UnitSums sums) {
  using T = Compute<In>;
  const LossTemplate<T> loss(call.parameters.values);
  RowReader<LossTemplate<T>, In> reader(call);
  int turn = 0;
  GradientOutput<In> output(call, out, sums);
  for_units(units, [&](int64_t r, int tile) {
    LogitsRow<In> row(call, r);
    reader.start(r);
    output.start(r, reader.scale());
    if (output.zero()) row.fast_path_starts = 0;
    const GradientRow<In> memory(row, out.gradient, r);
    const auto put = [&](auto kind, const RowChunk<In>& chunk, uint4 logits) {
      T values[kWidth<In>], g[kWidth<In>];
      evaluate_chunk(kind, loss, call, chunk, output.factor(), values, g);
      output.put(kind, row, memory, chunk, logits, g);
    };
    tile_of(units, row, tile, turn).run(reader, row, output.plain() && memory.whole_accesses(), put);
    output.store_sums(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
