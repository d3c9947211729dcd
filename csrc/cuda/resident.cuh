// Resident: a row held in shared memory in its own dtype, by a block or a cluster of them, so that it is
// read once. The grid persists, and a row's memory takes the next row as its gradient leaves.
#pragma once

#include "arrival.cuh"
#include "cluster.cuh"
#include "group_row.cuh"
#include "loss_traits.h"

namespace mlloss {
namespace cuda {

// chunks: of a row that each of the cluster's blocks takes.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kMaxThreads, sizeof(In) == 8 || kRegisterPressure<LossTemplate<Compute<In>>> > 2
                                                   ? 1
                                                   : kResidentBlocks)
    resident(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out, int chunks,
             const __grid_constant__ Total total) {
  MLLOSS_DYNAMIC_SHARED(unsigned char, memory);
  using T = Compute<In>;
  using Group = GroupRow<LossTemplate, In>;
  const int rank = cluster_rank(), size = cluster_size();
  const int64_t first = blockIdx.x / static_cast<unsigned>(size), step = gridDim.x / static_cast<unsigned>(size);
  Group group(call, out);
  const ResidentChunks<In> chunks_of_row(call, memory, rank * chunks, chunks);
  // Thread 0's alone; a register would be everyone's.
  MLLOSS_SHARED(double, sum, [1]);
  if (threadIdx.x == 0) sum[0] = 0.0;
  if (first < call.rows) chunks_of_row.begin(LogitsRow<In>(call, first));
  int turn = 0;
  for (int64_t r = first; r < call.rows; r += step, ++turn) {
    const LogitsRow<In> row(call, r);
    LogitsRow<In> next(call, r + step < call.rows ? r + step : r);
    if (r + step >= call.rows) next.chunks = 0;
    group.start(r);
    const auto mine = group.statistics(row, chunks_of_row, true);
    const auto stats = merge_cluster<typename Group::Loss, T>(mine, turn);
    typename Group::SecondSums second_sums{};
    if constexpr (Group::Loss::kSecondPassSums > 0)
      second_sums = sum_cluster(group.second_pass_sums(row, chunks_of_row, true, stats), turn);
    typename Group::Coefficients c;
    const T value = group.finalize(stats, second_sums, rank == 0, c);
    if (threadIdx.x == 0) sum[0] += static_cast<double>(value);
    if (out.gradient) {
      group.gradient(row, c, Replacing<In>{chunks_of_row, next});
    } else {
      chunks_of_row.begin(next);
    }
  }
  wait_copies<0>();
  if (size > 1) cluster_sync();  // nobody leaves while its statistics may be read
  add_to_total<T>(call, total, threadIdx.x == 0 ? sum[0] : 0.0, blockIdx.x, gridDim.x);
}

}  // namespace cuda
}  // namespace mlloss
