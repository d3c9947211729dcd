// Row-wise losses over a team of blocks, as in team.cuh, for calls with any options, targets and strides. All visits of
// a row share one loop over its chunks, because the code that reads a chunk with options is most of the kernel.
#pragma once

#include "../device/general_visit.cuh"
#include "team.cuh"

namespace mlloss {
namespace cuda {

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kTeamThreads, (kTeamBlocks<LossTemplate<float>, FastPath::kNone>))
    general_team_rows(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                      const __grid_constant__ TeamLaunch launch, const __grid_constant__ Total total) {
  using Loss = LossTemplate<float>;
  MLLOSS_SHARED(SharedResults<Loss>, shared, [1]);
  MLLOSS_SHARED(double, value_sum, [1]);  // only thread 0 uses it
  const Loss loss(call.parameters.values);
  Team<kTeamPackets<Loss>> team(launch);
  const int rows = static_cast<int>(call.rows), first = team.first_row(), step = team.row_step();
  if (threadIdx.x == 0) value_sum[0] = 0.0;
  if (first < rows) {
    GeneralRow<Loss, In> row(call, launch, team.rank());
    RowResults<LossTemplate> results(call, out, loss, shared, team.rank() == 0, row.scale());
    row.load(first);
    for (int r = first; r < rows; r += step) {
      if (this_warp() == 0) results.start(r);
      Visit visit = Visit::kSums;
      while (visit != Visit::kNone) {
        GeneralVisit<Loss, In> own(loss, shared[0], visit);
        row.each(r, [&](const LogitsRow<In>& view, const RowChunk<In>& chunk) {
          own.add_chunk(chunk, GradientRow<In>(view, out.gradient, r));
        });
        if (visit != Visit::kGradient) {
          own.finish(r, team, results, value_sum);
          __syncthreads();
        }
        visit = visit_after<Loss>(visit, shared[0].mode == RowMode::kAgain, out.gradient != nullptr);
      }
      if (r < rows - step) row.load(r + step);
    }
  }
  add_to_total<float>(call, total, threadIdx.x == 0 ? value_sum[0] : 0.0, blockIdx.x, gridDim.x);
  team.leave();
}

}  // namespace cuda
}  // namespace mlloss
