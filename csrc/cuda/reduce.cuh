// Partial sums to results, in a fixed order.
#pragma once

#include "block_reduce.cuh"
#include "vector_io.cuh"

namespace mlloss {
namespace cuda {

// One block: *total = sum of parts * factor / *normalizer.
template <class T>
__global__ void sum_total(const double* parts, int64_t count, double factor, const T* normalizer, T* total) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  sum = block_sum(Array<double, 1>{{sum}})[0];
  if (threadIdx.x != 0) return;
  sum *= factor;
  if (normalizer) sum /= static_cast<double>(*normalizer);
  *total = static_cast<T>(sum);
}

// A thread a result: out[i] = sum over j < count of parts[i * stride + j * step].
template <class T>
__global__ void sum_each(const double* parts, int64_t results, int64_t stride, int64_t count, int64_t step, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= results) return;
  double sum = 0.0;
  for (int64_t j = 0; j < count; ++j) sum += parts[i * stride + j * step];
  out[i] = static_cast<T>(sum);
}

}  // namespace cuda
}  // namespace mlloss
