// Sums and maxima over a block, in a fixed order; every thread gets the result.
#pragma once

#include "../../core/numerics.h"
#include "portability.cuh"

namespace mlloss {
namespace cuda {

constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMostWarps = 16;  // no block has more warps

MLLOSS_DEVICE int this_lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
MLLOSS_DEVICE int this_warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
MLLOSS_DEVICE int block_warps() { return static_cast<int>(blockDim.x) / kWarpLanes; }

template <class T, int N>
MLLOSS_DEVICE void add(Array<T, N>& into, const Array<T, N>& from) {
#pragma unroll
  for (int k = 0; k < N; ++k) into[k] += from[k];
}

// Returns f(0) + ... + f(N - 1), which are arrays.
template <int N, class F>
MLLOSS_DEVICE auto sum_of(F f) {
  auto sum = f(0);
#pragma unroll
  for (int i = 1; i < N; ++i) add(sum, f(i));
  return sum;
}

struct Sum {
  template <class T>
  static MLLOSS_DEVICE T join(T a, T b) {
    return a + b;
  }
};
struct Maximum {
  template <class T>
  static MLLOSS_DEVICE T join(T a, T b) {
    return maximum(b, a);
  }
};

// Joins groups of kLanes neighbours; every lane gets its group's result.
template <class How, int kLanes, class T, int N>
MLLOSS_DEVICE Array<T, N> join_lanes(Array<T, N> x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int n = 0; n < N; ++n) x[n] = How::join(x[n], __shfl_xor_sync(kAllLanes, x[n], distance));
  }
  return x;
}

template <class How, class T, int N>
MLLOSS_DEVICE Array<T, N> block_combine(Array<T, N> x, T neutral) {
  MLLOSS_SHARED(T, partial, [kMostWarps][N]);
  x = join_lanes<How, kWarpLanes>(x);
  __syncthreads();  // after it, all threads have read the partial results of the reduction before this one
  if (this_lane() == 0) {
#pragma unroll
    for (int k = 0; k < N; ++k) partial[this_warp()][k] = x[k];
  }
  __syncthreads();
  Array<T, N> all;
#pragma unroll
  for (int k = 0; k < N; ++k) all[k] = neutral;
  for (int w = 0; w < block_warps(); ++w) {
#pragma unroll
    for (int k = 0; k < N; ++k) all[k] = How::join(all[k], partial[w][k]);
  }
  return all;
}

template <class T, int N>
MLLOSS_DEVICE Array<T, N> block_sum(Array<T, N> x) {
  return block_combine<Sum>(x, T(0));
}

template <class T, int N>
MLLOSS_DEVICE Array<T, N> block_maximum(Array<T, N> x, T least) {
  return block_combine<Maximum>(x, least);
}

}  // namespace cuda
}  // namespace mlloss
