// The gradient of a group loss from coefficients that are known: the logits read once more.
#pragma once

#include "gradient_output.cuh"
#include "group_row.cuh"

namespace mlloss {
namespace cuda {

// Of a label in a row, wherever its group is.
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

// kByLabel: every label is a group.
template <template <class> class LossTemplate, class In, bool kByLabel>
__global__ void __launch_bounds__(kUnitThreads, kUnitBlocks<In>)
    group_backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
                   const __grid_constant__ Units units, const __grid_constant__ UnitSums sums) {
  MLLOSS_DYNAMIC_SHARED(unsigned char, memory);
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  const Loss loss(call.parameters.values);
  RowReader<In> reader(call);
  Ring<In> ring(call, memory);
  GradientOutput<In> output(call, out, sums);
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    begin_tile(ring, units, row, tile);
    reader.start(r);
    output.start(r, reader.scale());
    const T factor = output.factor();
    Array<T, Loss::kCoefficients> c;
    if constexpr (!kByLabel) c = Loss::scaled(load_coefficients<Loss, T>(call, out, r, 0), factor);
    ring.run(row, [&](const Fetched& fetched) {
      const RowChunk<In> chunk = read_chunk(reader, row, fetched);
      T g[kWidth<In>];
      if constexpr (kByLabel) {
#pragma unroll
        for (int i = 0; i < kWidth<In>; ++i) {
          const int label = row.inside(chunk.label + i) ? chunk.label + i : 0;
          const auto own = Loss::scaled(load_coefficients<Loss, T>(call, out, r, label), factor);
          g[i] = loss.gradient(general_element(chunk, i), own);
        }
      } else {
        chunk_gradient(loss, chunk, c, g);
      }
      output.put(row, chunk, fetched.logits, g);
    });
    output.finish(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
