// Kernels over the statistics of all parts of the labels: they merge them and finalize the result, both in double. A
// block of one warp processes a group.
#pragma once

#include "split.cuh"

namespace mlloss {
namespace cuda {

constexpr int kPartThreads = 32;

// Returns the statistics of the block's group, from all parts.
template <class Wide>
MLLOSS_DEVICE StatisticsOf<Wide, double> join_parts(const LabelParts& parts) {
  constexpr int kCount = Wide::kMaxima + Wide::kSums;
  return join_of<Wide, double>(static_cast<int>(parts.parts), [&](int i) {
    return load_statistics<Wide, double>(parts.statistics + i * kCount * parts.groups, parts.groups, blockIdx.x);
  });
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kPartThreads) merge_parts(const __grid_constant__ LabelParts parts, double* out) {
  using Wide = LossTemplate<double>;
  store_statistics<Wide, double>(join_parts<Wide>(parts), out, parts.groups, blockIdx.x);
}

// `values` is null, or receives the value of each group, for sum_total.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kPartThreads)
    finalize_parts(const __grid_constant__ DeviceCall call, const __grid_constant__ LabelParts parts,
                   const __grid_constant__ ForwardOutputs out, double* values) {
  using T = Compute<In>;
  using Wide = LossTemplate<double>;
  const auto stats = join_parts<Wide>(parts);
  SecondPassSums<Wide, double> second_sums{};
  if constexpr (Wide::kSecondPassSums > 0) {
    for (int64_t i = threadIdx.x; i < parts.parts; i += blockDim.x) {
#pragma unroll
      for (int k = 0; k < Wide::kSecondPassSums; ++k) {
        second_sums[k] += parts.second_pass_sums[(i * Wide::kSecondPassSums + k) * parts.groups + blockIdx.x];
      }
    }
    second_sums = block_sum(second_sums);
  }
  double value;
  const auto c = finalize<Wide, double>(Wide(call.parameters.values), stats, second_sums, value);
  const double weight = static_cast<double>(sample_weight<T>(call, blockIdx.x));
  value = weight == 0.0 ? 0.0 : value * weight;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int k = 0; k < Wide::kCoefficients; ++k) {
      static_cast<T*>(out.coefficients)[k * parts.groups + blockIdx.x] = static_cast<T>(c[k]);
    }
    if (out.values) static_cast<T*>(out.values)[blockIdx.x] = static_cast<T>(value);
    if (values) values[blockIdx.x] = value;
  }
}

}  // namespace cuda
}  // namespace mlloss
