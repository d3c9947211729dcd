// Kernels over parts of the labels: they collect the statistics of a part, merge those of all parts in double, and
// finalize the result in double. A block of one warp processes a group.
#pragma once

#include "split.cuh"

namespace mlloss {
namespace cuda {

constexpr int kPartThreads = 32;

// Stores to [statistics, groups].
template <class Wide>
MLLOSS_DEVICE void store_statistics(const StatisticsOf<Wide, double>& stats, double* out) {
  if (threadIdx.x != 0) return;
  const int64_t groups = gridDim.x;
#pragma unroll
  for (int k = 0; k < Wide::kMaxima; ++k) out[k * groups + blockIdx.x] = stats.maxima[k];
#pragma unroll
  for (int k = 0; k < Wide::kSums; ++k) out[(Wide::kMaxima + k) * groups + blockIdx.x] = stats.sums[k];
}

// Loads from [statistics, groups].
template <class Wide>
MLLOSS_DEVICE StatisticsOf<Wide, double> load_statistics(const double* from, int64_t groups, int64_t group) {
  StatisticsOf<Wide, double> stats;
#pragma unroll
  for (int k = 0; k < Wide::kMaxima; ++k) stats.maxima[k] = from[k * groups + group];
#pragma unroll
  for (int k = 0; k < Wide::kSums; ++k) stats.sums[k] = from[(Wide::kMaxima + k) * groups + group];
  return stats;
}

// Returns the statistics of the block's group, from all parts.
template <class Wide>
MLLOSS_DEVICE StatisticsOf<Wide, double> join_parts(const LabelParts& parts) {
  constexpr int kCount = Wide::kMaxima + Wide::kSums;
  return join_of<Wide, double>(static_cast<int>(parts.parts), [&](int i) {
    return load_statistics<Wide>(parts.statistics + i * kCount * parts.groups, parts.groups, blockIdx.x);
  });
}

// Converts the merged statistics of each group, which are at the place of its first unit, to [statistics, groups].
// `stride` is the distance between two groups in numbers.
template <class T>
__global__ void __launch_bounds__(kPartThreads)
    collect_statistics(const T* units, int64_t stride, int maxima, int sums, double* out) {
  const int k = static_cast<int>(threadIdx.x), groups = static_cast<int>(gridDim.x);
  if (k >= maxima + sums) return;
  // Array<T, 0> has the size of one number, so sums begin at number 1 if there are no maxima.
  const int at = maxima > 0 ? k : k + 1;
  out[int64_t{k} * groups + blockIdx.x] = static_cast<double>(units[blockIdx.x * stride + at]);
}

// Stores a row's merged statistics at the place of its first unit, where row_second_pass reads them.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kPartThreads)
    place_statistics(const double* known, int tiles, StatisticsOf<LossTemplate<Compute<In>>, Compute<In>>* units) {
  using T = Compute<In>;
  using Wide = LossTemplate<double>;
  if (threadIdx.x != 0) return;
  const auto stats = load_statistics<Wide>(known, gridDim.x, blockIdx.x);
  auto& out = units[static_cast<int64_t>(blockIdx.x) * tiles];
#pragma unroll
  for (int k = 0; k < Wide::kMaxima; ++k) out.maxima[k] = static_cast<T>(stats.maxima[k]);
#pragma unroll
  for (int k = 0; k < Wide::kSums; ++k) out.sums[k] = static_cast<T>(stats.sums[k]);
}

// Adds up the second-pass sums of each row's units, [rows, tiles], to [second-pass sums, rows].
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kPartThreads)
    collect_second_pass(const SecondPassSums<LossTemplate<Compute<In>>, Compute<In>>* second_sums, int tiles,
                        double* out) {
  constexpr int kCount = LossTemplate<double>::kSecondPassSums;
  const auto own = second_sums + static_cast<int64_t>(blockIdx.x) * tiles;
  Array<double, kCount> sums{};
  for (int i = static_cast<int>(threadIdx.x); i < tiles; i += static_cast<int>(blockDim.x)) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) sums[k] += static_cast<double>(own[i].v[k]);
  }
  sums = block_sum(sums);
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int k = 0; k < kCount; ++k) out[int64_t{k} * gridDim.x + blockIdx.x] = sums[k];
}

template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kPartThreads) merge_parts(const __grid_constant__ LabelParts parts, double* out) {
  using Wide = LossTemplate<double>;
  store_statistics<Wide>(join_parts<Wide>(parts), out);
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
