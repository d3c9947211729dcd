// Blocks that run together and read each other's shared memory (sm_90 and later).
#pragma once

#include <cooperative_groups.h>

#include "portability.cuh"

namespace mlloss {
namespace cuda {

#if defined(CUEMU) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

MLLOSS_DEVICE int cluster_rank() { return static_cast<int>(cooperative_groups::this_cluster().block_rank()); }
MLLOSS_DEVICE int cluster_size() { return static_cast<int>(cooperative_groups::this_cluster().num_blocks()); }
MLLOSS_DEVICE void cluster_sync(MLLOSS_CALLER) { cooperative_groups::this_cluster().sync(MLLOSS_PASS_CALLER); }
template <class T>
MLLOSS_DEVICE T* shared_of(T* mine, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(mine, static_cast<unsigned>(rank));
}

#else

MLLOSS_DEVICE int cluster_rank() { return 0; }
MLLOSS_DEVICE int cluster_size() { return 1; }
MLLOSS_DEVICE void cluster_sync(MLLOSS_CALLER) {}
template <class T>
MLLOSS_DEVICE T* shared_of(T* mine, int) {
  return mine;
}

#endif

// Merges the results of a cluster's blocks in the order of their ranks; every thread gets the result. `turn` must
// alternate between even and odd numbers, so that one barrier per call is enough.
template <class Part, class Merge>
MLLOSS_DEVICE Part join_cluster(const Part& block, int turn, Merge merge) {
  MLLOSS_SHARED(Part, published, [2]);
  MLLOSS_SHARED(Part, gathered, [kMaxCluster]);
  const int size = cluster_size(), me = static_cast<int>(threadIdx.x);
  if (size == 1) return block;
  if (me == 0) published[turn & 1] = block;
  cluster_sync();
  if (me < size) gathered[me] = *shared_of(&published[turn & 1], me);
  __syncthreads();
  Part all = gathered[0];
  for (int rank = 1; rank < size; ++rank) merge(all, gathered[rank]);
  return all;
}

template <class Loss, class T>
MLLOSS_DEVICE StatisticsOf<Loss, T> merge_cluster(const StatisticsOf<Loss, T>& block, int turn) {
  using Stats = StatisticsOf<Loss, T>;
  return join_cluster(block, turn, [](Stats& into, const Stats& from) { merge<Loss, T>(into, from); });
}

template <class T, int N>
MLLOSS_DEVICE Array<T, N> sum_cluster(const Array<T, N>& block, int turn) {
  return join_cluster(block, turn, [](Array<T, N>& into, const Array<T, N>& from) {
#pragma unroll
    for (int k = 0; k < N; ++k) into[k] += from[k];
  });
}

}  // namespace cuda
}  // namespace mlloss
