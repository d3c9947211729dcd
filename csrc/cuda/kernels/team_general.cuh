// Row-wise losses over a team of blocks, as in team.cuh, for calls with any options, targets and strides. All visits of
// a row share one loop over its chunks, because the code that reads a chunk with options is most of the kernel.
#pragma once

#include "../device/general_row.cuh"

namespace mlloss {
namespace cuda {

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kTeamThreads, (kTeamBlocks<LossTemplate<float>, FastPath::kNone>))
    general_team_rows(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                      const __grid_constant__ TeamLaunch launch, const __grid_constant__ Total total) {
  using Loss = LossTemplate<float>;
  MLLOSS_SHARED(SharedResults<Loss>, shared, [1]);
  const Loss loss(call.parameters.values);
  Team<kTeamPackets<Loss>> team(launch);
  GeneralRow<Loss, In> row(call, launch, team.rank());
  RowResults<LossTemplate> results(call, out, loss, team, shared[0], row.scale());
  const int rows = static_cast<int>(call.rows), step = team.row_step();
  row.load(team.first_row());
  for (int r = team.first_row(); r < rows; r += step) {
    results.start(r);
    Visit visit = Visit::kSums;
    while (visit != Visit::kNone) {
      VisitSums<Loss> own(visit, shared[0]);
      row.visit(r, loss, shared[0], own, out.gradient);
      if (visit != Visit::kGradient) {
        results.finish(r, own);
        __syncthreads();
      }
      visit = visit_after(visit, shared[0], out.gradient != nullptr);
    }
    if (r < rows - step) row.load(r + step);
  }
  results.end(total);
}

}  // namespace cuda
}  // namespace mlloss
