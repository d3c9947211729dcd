// Resident: a block or a cluster keeps a row in shared memory, in its own dtype, so that it is read once. The grid is
// persistent, and the memory of a row receives the next row as the gradient is stored.
#pragma once

#include "arrival.cuh"
#include "cluster.cuh"
#include "group_row.cuh"
#include "loss_traits.h"

namespace mlloss {
namespace cuda {

// chunks: the number of a row's chunks that each block of the cluster processes.
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
  // Only thread 0 uses this sum; in a register it would cost every thread one.
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
  if (size > 1) cluster_sync();  // no block may exit while others can read its statistics
  add_to_total<T>(call, total, threadIdx.x == 0 ? sum[0] : 0.0, blockIdx.x, gridDim.x);
}

}  // namespace cuda
}  // namespace mlloss
