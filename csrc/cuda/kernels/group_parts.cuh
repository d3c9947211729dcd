// Kernels over the statistics of groups in parts, which they merge in double: the parts of the labels that other calls
// or ranks have taken, or the stretches of rows of down_rows.cuh.
#pragma once

#include "split.cuh"

namespace mlloss {
namespace cuda {

// Returns the merged statistics of a group to all of the kLanes threads that process it.
template <class Loss, class T, int kLanes>
MLLOSS_DEVICE StatisticsOf<Loss, T> join_parts(const GroupParts<T>& parts, int64_t group) {
  constexpr int kCount = Loss::kMaxima + Loss::kSums;
  auto own = identity<Loss, double>();
  for (int64_t i = threadIdx.x % kLanes; i < parts.parts; i += kLanes) {
    const T* part = parts.statistics + i * kCount * parts.groups;
    merge<Loss, double>(own, load_statistics<Loss, double>(part, parts.groups, group));
  }
  if constexpr (Loss::kMaxima > 0) {
    const auto top = join_lanes<Maximum, kLanes>(own.maxima);
    Loss::rescale(own.sums, own.maxima, top);
    own.maxima = top;
  }
  own.sums = join_lanes<Sum, kLanes>(own.sums);
  StatisticsOf<Loss, T> all;
#pragma unroll
  for (int k = 0; k < Loss::kMaxima; ++k) all.maxima[k] = static_cast<T>(own.maxima[k]);
#pragma unroll
  for (int k = 0; k < Loss::kSums; ++k) all.sums[k] = static_cast<T>(own.sums[k]);
  return all;
}

// A block of one warp merges the parts of a group.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kWarpLanes) merge_parts(const __grid_constant__ LabelParts parts, double* out) {
  using Loss = LossTemplate<double>;
  const auto stats = join_parts<Loss, double, kWarpLanes>(parts, blockIdx.x);
  store_statistics<Loss, double>(stats, out, parts.groups, blockIdx.x);
}

// The type of the statistics of parts, in which groups are finalized.
template <class In, bool kLabelParts>
using PartOf = std::conditional_t<kLabelParts, double, Compute<In>>;

// The minimum of blocks per multiprocessor, found by trial: the compiler spills registers with others, and without one.
template <bool kLabelParts>
constexpr int kFinalizeBlocks = kLabelParts ? 4 : 8;

// kLabelParts: a warp processes a group, because the parts of the labels may be many. Otherwise a thread does.
template <template <class> class LossTemplate, class In, bool kLabelParts>
__global__ void __launch_bounds__(kLabelThreads, kFinalizeBlocks<kLabelParts>)
    finalize_groups(const __grid_constant__ DeviceCall call,
                    const __grid_constant__ GroupParts<PartOf<In, kLabelParts>> parts,
                    const __grid_constant__ ForwardOutputs out, const __grid_constant__ Total total) {
  using T = PartOf<In, kLabelParts>;
  using Result = Compute<In>;
  using Loss = LossTemplate<T>;
  constexpr int kLanes = kLabelParts ? kWarpLanes : 1;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, group = thread / kLanes;
  double mine = 0.0;
  if (group < parts.groups) {
    const Loss loss(call.parameters.values);
    const auto stats = join_parts<Loss, T, kLanes>(parts, group);
    SecondPassSums<Loss, T> second_sums{};
    if constexpr (Loss::kSecondPassSums > 0) {
      for (int64_t i = thread % kLanes; i < parts.parts; i += kLanes) {
#pragma unroll
        for (int k = 0; k < Loss::kSecondPassSums; ++k) {
          second_sums[k] += parts.second_pass_sums[(i * Loss::kSecondPassSums + k) * parts.groups + group];
        }
      }
      second_sums = join_lanes<Sum, kLanes>(second_sums);
    }
    T value;
    const auto c = finalize<Loss, T>(loss, stats, second_sums, value);
    if (thread % kLanes == 0) {
      const T weight = static_cast<T>(sample_weight<Result>(call, group));
      mine = static_cast<double>(store_results<Result>(out, c, value, weight, parts.groups, group));
    }
  }
  add_threads_to_total<Result>(call, total, mine);
}

}  // namespace cuda
}  // namespace mlloss
