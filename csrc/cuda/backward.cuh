// The gradient of a group loss from the coefficients that its forward kept: the logits read once more.
#pragma once

#include "../core/launch_plan.h"
#include "gradient_output.cuh"
#include "group_row.cuh"

namespace mlloss {
namespace cuda {

template <class Loss, class T>
MLLOSS_DEVICE Array<T, Loss::kCoefficients> load_coefficients(const DeviceCall& call, const BackwardOutputs& out,
                                                              int64_t row) {
  Array<T, Loss::kCoefficients> c;
#pragma unroll
  for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = static_cast<const T*>(out.coefficients)[k * call.rows + row];
  return c;
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, kUnitBlocks<In>)
    group_backward(const __grid_constant__ DeviceCall call, const __grid_constant__ BackwardOutputs out,
                   const __grid_constant__ Units units, const __grid_constant__ UnitSums sums) {
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  const Loss loss(call.parameters.values);
  RowReader<In> reader(call);
  GradientOutput<In> output(call, out, sums);
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    reader.start(r);
    output.start(r, reader.scale());
    const auto c = Loss::scaled(load_coefficients<Loss, T>(call, out, r), output.factor());
    for_tile(units, row, tile, [&](int i, uint4 raw) {
      const RowChunk<In> chunk = read_chunk(reader, row, i, raw);
      T g[kWidth<In>];
      chunk_gradient(loss, chunk, c, g);
      output.put(row, chunk, raw, g);
    });
    output.finish(r * units.tiles + tile);
  });
}

}  // namespace cuda
}  // namespace mlloss
