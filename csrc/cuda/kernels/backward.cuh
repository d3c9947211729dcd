// The gradient of a group loss from known coefficients, with one more read of the logits.
#pragma once

#include "../device/gradient_output.cuh"

namespace mlloss {
namespace cuda {

// Forms the gradients of a chunk. Chunks take the fast path only in rows with finite maxima.
template <class Kind, class Loss, class T, int V>
MLLOSS_DEVICE void chunk_gradient(Kind kind, const Loss& loss, const Chunk<T, V>& chunk,
                                  const Array<T, Loss::kCoefficients>& c, T* g) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const auto e = element(kind, chunk, i);
    g[i] = Kind::kFastPath ? loss.gradient_at_finite_maxima(e, c) : loss.gradient(e, c);
  }
}

// Returns the coefficients of the group to which a label of a row belongs.
template <class Loss, class T>
MLLOSS_DEVICE Array<T, Loss::kCoefficients> load_coefficients(const DeviceCall& call, const BackwardOutputs& out,
                                                              int64_t row, int label) {
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
  return c;
}

template <class Kind, class Loss, class T, int V>
MLLOSS_DEVICE void chunk_gradient_by_label(Kind kind, const Loss& loss, const DeviceCall& call,
                                           const BackwardOutputs& out, const Chunk<T, V>& chunk, T factor, T* g) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int label = chunk.label + i;
    const auto c = load_coefficients<Loss, T>(call, out, 0, call.inside(label) ? label : 0);
    g[i] = loss.gradient(element(kind, chunk, i), Loss::scaled(c, factor));
  }
}

// The minimum of blocks per multiprocessor. The coefficients of each label take registers, which would spill on sm_80
// in float32 and from sm_100 on.
template <class Loss, class In, bool kByLabel>
constexpr int backward_blocks_of() {
  if (kByLabel && MLLOSS_CAPABILITY >= 100 && kRegisterPressure<Loss> > 0) return 1;
  if (kByLabel && MLLOSS_CAPABILITY < 90) return 2;
  return kGroupUnitBlocks<Loss, In>;
}
template <class Loss, class In, bool kByLabel>
constexpr int kBackwardBlocks = backward_blocks_of<Loss, In, kByLabel>();

// kByLabel: each label is a group.
template <template <class> class LossTemplate, class In, bool kByLabel>
__global__ void __launch_bounds__(kUnitThreads, (kBackwardBlocks<LossTemplate<Compute<In>>, In, kByLabel>))
    group_backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
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
      c = Loss::scaled(load_coefficients<Loss, T>(call, out, r, 0), factor);
      if (!Loss::finite_maxima(c)) row.fast_path_starts = 0;
    }
    const GradientRow<In> memory(row, out.gradient, r);
    const auto put = [&](auto kind, const RowChunk<In>& chunk, uint4 logits) {
      T g[kWidth<In>];
      if constexpr (kByLabel) {
        chunk_gradient_by_label(kind, loss, call, out, chunk, factor, g);
      } else {
        chunk_gradient(kind, loss, chunk, c, g);
      }
      output.put(kind, memory, chunk, logits, g);
    };
    tile_of(units, row, r, tile).run(reader, row, output.plain() && memory.whole_accesses(), put);
    output.store_sums(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
