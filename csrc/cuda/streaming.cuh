// Streaming: one block per row reads it once for its statistics and again for its gradient.
#pragma once

#include "arrival.cuh"
#include "feed.cuh"
#include "group_row.cuh"
#include "loss_traits.h"

namespace mlloss {
namespace cuda {

// The planner assumes the blocks that most losses have on a multiprocessor; launching more than fit does no harm. On
// sm_100 and later, sums of 16-bit logits spill registers with two blocks.
template <class Loss, class In>
constexpr bool kStreamsAlone = sizeof(In) == 8 || kRegisterPressure<Loss> > 2 ||
                               (sizeof(In) == 2 && kRegisterPressure<Loss> == 2 && MLLOSS_CAPABILITY >= 100);

template <class Loss, class In>
constexpr int kStreamingBlocks = kStreamsAlone<Loss, In>       ? 1
                                 : kRegisterPressure<Loss> > 0 ? 2
                                                               : streaming_blocks_of(MLLOSS_CAPABILITY);

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kMaxThreads, (kStreamingBlocks<LossTemplate<Compute<In>>, In>))
    streaming(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
              const __grid_constant__ Total total) {
  using T = Compute<In>;
  using Group = GroupRow<LossTemplate, In>;
  Group group(call, out);
  // Only thread 0 uses this sum; in a register it would cost every thread one.
  MLLOSS_SHARED(double, sum, [1]);
  if (threadIdx.x == 0) sum[0] = 0.0;
  const bool gradient = out.gradient != nullptr;
  for (int64_t r = blockIdx.x; r < call.rows; r += gridDim.x) {
    const LogitsRow<In> row(call, r);
    const Tile<In> tile(row, 0, 1, row.chunks, static_cast<uint32_t>(r));
    group.start(r);
    const auto stats = group.statistics(row, tile);
    typename Group::SecondSums second_sums{};
    if constexpr (Group::Loss::kSecondPassSums > 0) second_sums = group.second_pass_sums(row, tile, stats);
    typename Group::Coefficients c;
    const T value = group.finalize(stats, second_sums, true, c);
    if (threadIdx.x == 0) sum[0] += static_cast<double>(value);
    if (gradient) group.gradient(row, c, tile);
  }
  add_to_total<T>(call, total, threadIdx.x == 0 ? sum[0] : 0.0, blockIdx.x, gridDim.x);
}

}  // namespace cuda
}  // namespace mlloss
