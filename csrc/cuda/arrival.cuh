// The last block to finish does what needs the others' results: no second launch, no floating-point
// atomics, and sums in the same order whichever block it is.
#pragma once

#include "block_reduce.cuh"
#include "device_call.h"

namespace mlloss {
namespace cuda {

// Whether `count` blocks have been here, this one the last; what thread 0 of the others wrote before is
// then to be read by __ldcg. `counter` is 0 before the first and after the last. A barrier of the block must
// stand between two calls.
MLLOSS_DEVICE bool last_to_arrive(unsigned* counter, unsigned count) {
  MLLOSS_SHARED(bool, last, [1]);
  if (threadIdx.x == 0) {
    __threadfence();
    last[0] = atomicInc(counter, count - 1) == count - 1;
    __threadfence();
  }
  __syncthreads();
  return last[0];
}

// Where the reduced loss goes, and what it is added up from; value is null where none is wanted.
struct Total {
  void* value;           // T []
  double* partial_sums;  // one a block, or one a row
  unsigned* counter;
};

// By one block, in a fixed order.
template <class T>
MLLOSS_DEVICE void sum_partial_sums(const DeviceCall& call, const double* partial_sums, int64_t count, void* total) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += __ldcg(partial_sums + i);
  sum = block_sum(Array<double, 1>{{sum}})[0] * call.factor;
  if (threadIdx.x != 0) return;
  if (call.normalizer) sum /= static_cast<double>(*static_cast<const T*>(call.normalizer));
  *static_cast<T*>(total) = static_cast<T>(sum);
}

// `mine` is thread 0's: part `index` of `count`, of blocks that each come here once.
template <class T>
MLLOSS_DEVICE void add_to_total(const DeviceCall& call, const Total& total, double mine, int64_t index,
                                unsigned count) {
  if (!total.value) return;
  if (threadIdx.x == 0) total.partial_sums[index] = mine;
  if (last_to_arrive(total.counter, count)) sum_partial_sums<T>(call, total.partial_sums, count, total.value);
}

}  // namespace cuda
}  // namespace mlloss
