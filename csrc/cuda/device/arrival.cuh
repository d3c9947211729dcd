// The results of groups and of the whole call. The last block to finish does the work that needs the results of all
// blocks. This needs no second launch and no floating-point atomics, and the order of sums does not depend on which
// block is last.
#pragma once

#include "block_reduce.cuh"
#include "device_call.h"

namespace mlloss {
namespace cuda {

// Counts an arrival, and returns how many came before. The accesses of this thread and of those that a barrier of the
// block ordered before it are visible to later arrivals. Each fence around the atomic would wait, and clear the L1.
MLLOSS_DEVICE unsigned arrive(unsigned* counter, unsigned count) {
#ifdef __CUDA_ARCH__
  unsigned before;
  asm volatile("atom.acq_rel.gpu.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(count - 1) : "memory");
#else
  __threadfence();
  const unsigned before = atomicInc(counter, count - 1);
  __threadfence();
#endif
  return before;
}

// Returns true to the last of `count` blocks that call this function. That block must read with __ldcg what thread 0 of
// the other blocks wrote before. `counter` is 0 before the first call and after the last one. Two calls need a barrier
// of the block between them.
MLLOSS_DEVICE bool last_to_arrive(unsigned* counter, unsigned count) {
  MLLOSS_SHARED(bool, last, [1]);
  if (threadIdx.x == 0) last[0] = arrive(counter, count) == count - 1;
  __syncthreads();
  return last[0];
}

// Stores value and coefficients of a group, and returns the value with the group's weight.
template <class T, class S, int N>
MLLOSS_DEVICE S store_results(const ForwardOutputs& out, const Array<S, N>& coefficients, S value, S weight,
                              int64_t groups, int64_t group) {
  value = weight == S(0) ? S(0) : value * weight;
  T* const first = static_cast<T*>(out.coefficients) + group;
#pragma unroll
  for (int k = 0; k < N; ++k) first[k * groups] = static_cast<T>(coefficients[k]);
  if (out.values) static_cast<T*>(out.values)[group] = static_cast<T>(value);
  return value;
}

// The memory of the reduced loss and of its partial sums. `value` is null if the reduced loss is not needed.
struct Total {
  void* value;           // T []
  double* partial_sums;  // one for each block or each row
  unsigned* counter;
};

// Adds up partial sums in a fixed order; one block does this.
template <class T>
MLLOSS_DEVICE void sum_partial_sums(const DeviceCall& call, const double* partial_sums, int64_t count, void* total) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += __ldcg(partial_sums + i);
  sum = block_sum(Array<double, 1>{{sum}})[0] * call.factor;
  if (threadIdx.x != 0) return;
  if (call.normalizer) sum /= static_cast<double>(*static_cast<const T*>(call.normalizer));
  *static_cast<T*>(total) = static_cast<T>(sum);
}

// Stores partial sum `index` of `count`, which is `mine` of thread 0. The last block to arrive adds all of them up.
template <class T>
MLLOSS_DEVICE void add_to_total(const DeviceCall& call, const Total& total, double mine, int64_t index,
                                unsigned count) {
  if (!total.value) return;
  if (threadIdx.x == 0) total.partial_sums[index] = mine;
  if (last_to_arrive(total.counter, count)) sum_partial_sums<T>(call, total.partial_sums, count, total.value);
}

// Adds `mine` of every thread of the grid to the total.
template <class T>
MLLOSS_DEVICE void add_threads_to_total(const DeviceCall& call, const Total& total, double mine) {
  if (!total.value) return;
  mine = block_sum(Array<double, 1>{{mine}})[0];
  add_to_total<T>(call, total, mine, blockIdx.x, gridDim.x);
}

// The sum of a warp's values, in shared memory: a double in registers needs two of every thread.
class WarpSum {
 public:
  MLLOSS_DEVICE WarpSum() {
    MLLOSS_SHARED(double, sums, [kMostWarps]);
    sum_ = sums + this_warp();
    if (first_lane_) *sum_ = 0.0;
  }

  template <class T>
  MLLOSS_DEVICE void add(T mine) {
    mine = join_lanes<Sum, kWarpLanes>(Array<T, 1>{{mine}})[0];
    if (first_lane_) *sum_ += static_cast<double>(mine);
  }

  // Returns the sum to the first lane, and 0 to the others.
  MLLOSS_DEVICE double once() const { return first_lane_ ? *sum_ : 0.0; }

 private:
  double* sum_;
  const bool first_lane_ = this_lane() == 0;
};

}  // namespace cuda
}  // namespace mlloss
