// The gradient of any loss with one more read of the logits. The coefficients of a group loss are known.
#pragma once

#include "element_wise.cuh"

namespace mlloss {
namespace cuda {

// Returns the coefficients of the group to which a label of a row belongs, times `factor`; none for element-wise
// losses.
template <class Loss, class T>
MLLOSS_DEVICE Array<T, Loss::kCoefficients> load_coefficients(const DeviceCall& call, const BackwardOutputs& out,
                                                              int64_t row, int label, T factor) {
  if constexpr (Loss::kScope == Scope::kElement) {
    return {};
  } else {
    const T* first = static_cast<const T*>(out.coefficients);
    int64_t groups = call.rows;
    if constexpr (Loss::kAcrossRows) groups = group_count(call);
    if (!Loss::kAcrossRows || call.grouping == Grouping::kSamples) {
      first += row;
    } else if (call.grouping == Grouping::kMacro) {
      first += label;
    }
    Array<T, Loss::kCoefficients> c;
#pragma unroll
    for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = first[k * groups];
    return Loss::scaled(c, factor);
  }
}

// Forms the gradients of a chunk. coefficients(i) returns those of element i's group, which include `factor`. Chunks
// take the fast path only in rows whose maxima are 0.
template <class Kind, class Loss, class T, int V, class F>
MLLOSS_DEVICE void chunk_gradient(Kind kind, const Loss& loss, const DeviceCall& call, const Chunk<T, V>& chunk,
                                  T factor, F coefficients, T* g) {
  if constexpr (Loss::kScope == Scope::kElement) {
    T values[V];
    evaluate_chunk(kind, loss, call, chunk, factor, values, g);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const auto c = coefficients(i);
      const auto e = element(kind, chunk, i);
      g[i] = Kind::kFastPath ? loss.gradient_at_zero_maxima(prepared<Loss>(e), c) : loss.gradient(e, c);
    }
  }
}

// The minimum of blocks per multiprocessor. The coefficients of each label take registers, which would spill on sm_80
// in float32 and from sm_100 on.
template <class Loss, class In, bool kByLabel>
constexpr int backward_blocks_of() {
  if (Loss::kScope == Scope::kElement) return kUnitBlocks<Loss, In>;
  if (kByLabel && MLLOSS_CAPABILITY >= 100 && kRegisterPressure<Loss> > 0) return 1;
  if (kByLabel && MLLOSS_CAPABILITY < 90) return 2;
  return kGroupUnitBlocks<Loss, In>;
}
template <class Loss, class In, bool kByLabel>
constexpr int kBackwardBlocks = backward_blocks_of<Loss, In, kByLabel>();

// kByLabel: each label is a group.
template <template <class> class LossTemplate, class In, bool kByLabel>
__global__ void __launch_bounds__(kUnitThreads, (kBackwardBlocks<LossTemplate<Compute<In>>, In, kByLabel>))
    backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
             const __grid_constant__ Units units, const __grid_constant__ UnitSums sums) {
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  const Loss loss(call.parameters.values);
  RowReader<Loss, In> reader(call);
  GradientOutput<In> output(call, out, sums);
  for_units(units, [&](int64_t r, int tile) {
    LogitsRow<In> row(call, r);
    reader.start(r);
    output.start(r, reader.scale());
    if (output.zero()) row.fast_path_starts = 0;
    const T factor = output.factor();
    Array<T, Loss::kCoefficients> c;
    if constexpr (!kByLabel) {
      c = load_coefficients<Loss>(call, out, r, 0, factor);
      if constexpr (Loss::kMaxima > 0) {
        if (!Loss::zero_maxima(c)) row.fast_path_starts = 0;
      }
    }
    const GradientRow<In> memory(row, out.gradient, r);
    const auto put = [&](auto kind, const RowChunk<In>& chunk, uint4 logits) {
      const auto coefficients = [&](int i) {
        const int label = chunk.label + i;
        return kByLabel ? load_coefficients<Loss>(call, out, 0, call.inside(label) ? label : 0, factor) : c;
      };
      T g[kWidth<In>];
      chunk_gradient(kind, loss, call, chunk, factor, coefficients, g);
      output.put(kind, reader, memory, chunk, logits, g);
    };
    T unused = T(0);
    run_tile(loss, reader, row, memory, tile_of(units, row, r, tile), output.plain() && memory.whole_accesses(), true,
             factor, unused, put);
    output.store_sums(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
