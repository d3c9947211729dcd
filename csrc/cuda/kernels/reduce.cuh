// Kernels that add up partial sums in a fixed order.
#pragma once

#include "../device/arrival.cuh"

namespace mlloss {
namespace cuda {

// Stores the total of a call without groups: 0, or NaN after a division by 0.
template <class T>
__global__ void empty_total(const __grid_constant__ DeviceCall call, void* total) {
  sum_partial_sums<T>(call, nullptr, 0, total);
}

// Each thread computes one result: out[i] = sum over j < count of partial_sums[i * stride + j * step].
template <class T>
__global__ void sum_each(const double* partial_sums, int64_t results, int64_t stride, int64_t count, int64_t step,
                         T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= results) return;
  double sum = 0.0;
  for (int64_t j = 0; j < count; ++j) sum += partial_sums[i * stride + j * step];
  out[i] = static_cast<T>(sum);
}

}  // namespace cuda
}  // namespace mlloss
