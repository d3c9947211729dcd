// The forward pass of element-wise losses: value and gradient in one visit, with one read and one write.
#pragma once

#include "../device/arrival.cuh"
#include "../device/gradient_output.cuh"

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

// Returns the sum of the values of a chunk without weights. It takes one logarithm, of the product of all 1 + x, which
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

// Returns the sum of a chunk's values. `each` is true if the value of each element is needed too.
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

// Evaluates a trip without positives by the functor's function for many negatives, and adds its values to `sum`.
// Returns false, without any effect, if that function does not serve these logits.
template <class Loss, class In>
MLLOSS_DEVICE bool trip_of_negatives(const Loss& loss, const GradientRow<In>& memory, const Trip<In>& trip,
                                     bool gradient, float factor, float& sum) {
  constexpr int V = kWidth<In>, K = Trip<In>::K;
  float s[K * V], g[K * V], value;
#pragma unroll
  for (int k = 0; k < K; ++k) unpack<In>(trip.logits[k], s + k * V);
  if (__any_sync(kAllLanes, !loss.template negatives<K * V>(s, factor, g, value))) return false;
  sum += value;
  if (!gradient) return true;
#pragma unroll
  for (int k = 0; k < K; ++k) memory.store(NegativeKind(), trip.label(k), g + k * V);
  return true;
}

// Calls f(kind, chunk, logits) for the chunks of a tile, except those that trip_of_negatives() evaluates. `in_trips` is
// as in Tile.
template <class Loss, class In, class Reader, class F>
MLLOSS_DEVICE void run_tile(const Loss& loss, Reader& reader, const LogitsRow<In>& row, const GradientRow<In>& memory,
                            const Tile<In>& tile, bool in_trips, bool gradient, Compute<In> factor, Compute<In>& sum,
                            F f) {
  if constexpr (Loss::kNegatives && sizeof(Compute<In>) == 4) {
    tile.run(reader, row, in_trips && loss.serves_negatives(), f,
             [&](const Trip<In>& trip) { return trip_of_negatives(loss, memory, trip, gradient, factor, sum); });
  } else {
    tile.run(reader, row, in_trips, f);
  }
}

template <class In>
MLLOSS_DEVICE void store_values(const DeviceCall& call, Compute<In>* out, int label, const Compute<In>* values,
                                Compute<In> weight) {
#pragma unroll
  for (int i = 0; i < kWidth<In>; ++i) {
    if (call.inside(label + i)) out[label + i] = values[i] * weight;
  }
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kUnitBlocks<LossTemplate<Compute<In>>, In>))
    element_wise(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                 const __grid_constant__ Units units, const __grid_constant__ Total total) {
  using T = Compute<In>;
  const LossTemplate<T> loss(call.parameters.values);
  RowReader<LossTemplate<T>, In> reader(call);
  WarpSum of_warp;
  for_units(units, [&](int64_t r, int tile) {
    LogitsRow<In> row(call, r);
    const T weight = sample_weight<T>(call, r);
    const bool zero = weight == T(0);
    if (zero) row.fast_path_starts = 0;
    const T factor = call_factor<T>(call) * reader.scale() * weight;
    T sum = T(0);
    reader.start(r);
    const GradientRow<In> memory(row, out.gradient, r);
    const bool in_trips = !out.values && (!out.gradient || memory.whole_accesses());
    const auto f = [&](auto kind, const RowChunk<In>& chunk, uint4) {
      const bool each = !decltype(kind)::kWholeAccess && out.values;
      T values[kWidth<In>], g[kWidth<In>];
      sum += sum_chunk(kind, loss, call, chunk, factor, zero, each, values, g);
      if (each) store_values<In>(call, static_cast<T*>(out.values) + r * call.labels, chunk.label, values, weight);
      if (!out.gradient) return;
      reader.finish_gradient(kind, chunk, zero, g);
      memory.store(kind, chunk.label, g);
    };
    run_tile(loss, reader, row, memory, tile_of(units, row, r, tile), in_trips, out.gradient != nullptr, factor, sum,
             f);
    of_warp.add(zero ? T(0) : sum * weight);
  });
  add_threads_to_total<T>(call, total, of_warp.once());
}

}  // namespace cuda
}  // namespace mlloss
