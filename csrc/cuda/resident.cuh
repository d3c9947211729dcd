// Resident: a block a row, held in shared memory in its own dtype, so that it is read once.
#pragma once

#include "../core/launch_plan.h"
#include "group_row.cuh"

namespace mlloss {
namespace cuda {

// partials: [blocks], each block's sum of values; or null.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kMaxThreads, 1)
    resident(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out, double* partials) {
  MLLOSS_DYNAMIC_SHARED(uint4, held);
  using T = Compute<In>;
  GroupRow<LossTemplate, In> group(call, out);
  // Thread 0's alone; a register would be everyone's.
  MLLOSS_SHARED(double, total, [1]);
  if (threadIdx.x == 0) total[0] = 0.0;
  for (int64_t r = blockIdx.x; r < call.rows; r += gridDim.x) {
    const LogitsRow<In> row(call, r);
    // A thread takes out only what it put in itself: no barrier stands between.
    const auto load = [&](int chunk) { return held[chunk] = row.load(chunk); };
    const auto again = [&](int chunk) { return held[chunk]; };
    group.start(r);
    const auto stats = group.statistics(row, load, again);
    typename GroupRow<LossTemplate, In>::Coefficients c;
    const T value = group.conclude(stats, c);
    if (threadIdx.x == 0) total[0] += static_cast<double>(value);
    if (out.gradient) group.gradient(row, c, again);
  }
  if (partials && threadIdx.x == 0) partials[blockIdx.x] = total[0];
}

}  // namespace cuda
}  // namespace mlloss
