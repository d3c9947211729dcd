// Split: any number of blocks takes the statistics of units in any order, and the block that finishes the last unit of
// a group merges them. The backward kernel forms the gradient from the coefficients that are stored here.
#pragma once

#include "../device/arrival.cuh"
#include "../device/group_row.cuh"
#include "../device/units.cuh"

namespace mlloss {
namespace cuda {

// Returns the merged statistics of `count` units, which other blocks of this launch have stored, to all threads of the
// block.
template <class Loss, class T>
MLLOSS_DEVICE StatisticsOf<Loss, T> join(const StatisticsOf<Loss, T>* units, int count) {
  StatisticsOf<Loss, T> own = identity<Loss, T>();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    StatisticsOf<Loss, T> unit;
#pragma unroll
    for (int k = 0; k < Loss::kMaxima; ++k) unit.maxima[k] = __ldcg(&units[i].maxima[k]);
#pragma unroll
    for (int k = 0; k < Loss::kSums; ++k) unit.sums[k] = __ldcg(&units[i].sums[k]);
    merge<Loss, T>(own, unit);
  }
  if constexpr (Loss::kMaxima > 0) {
    const auto top = block_maximum(own.maxima, Loss::initial_maximum());
    Loss::rescale(own.sums, own.maxima, top);
    own.maxima = top;
  }
  own.sums = block_sum(own.sums);
  return own;
}

// Returns the sum of `count` arrays of second-pass sums to all threads of the block.
template <class T, int N>
MLLOSS_DEVICE Array<double, N> join_sums(const Array<T, N>* parts, int count) {
  Array<double, N> own{};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
#pragma unroll
    for (int k = 0; k < N; ++k) own[k] += static_cast<double>(__ldcg(&parts[i].v[k]));
  }
  return block_sum(own);
}

// Stores the statistics of a group to [statistics, groups].
template <class Loss, class T>
MLLOSS_DEVICE void store_statistics(const StatisticsOf<Loss, T>& stats, double* out, int64_t groups, int64_t group) {
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int k = 0; k < Loss::kMaxima; ++k) out[k * groups + group] = static_cast<double>(stats.maxima[k]);
#pragma unroll
  for (int k = 0; k < Loss::kSums; ++k) out[(Loss::kMaxima + k) * groups + group] = static_cast<double>(stats.sums[k]);
}

// Loads from [statistics, groups].
template <class Loss, class T, class From>
MLLOSS_DEVICE StatisticsOf<Loss, T> load_statistics(const From* from, int64_t groups, int64_t group) {
  StatisticsOf<Loss, T> stats;
#pragma unroll
  for (int k = 0; k < Loss::kMaxima; ++k) stats.maxima[k] = static_cast<T>(from[k * groups + group]);
#pragma unroll
  for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] = static_cast<T>(from[(Loss::kMaxima + k) * groups + group]);
  return stats;
}

// The results of the units of a split pass.
template <class Stats>
struct UnitStatistics {
  Stats* units;        // [rows * tiles]; for the whole batch: [blocks]
  unsigned* counters;  // [rows], zeros at the start: how many units of each row are done; for the whole batch: [1]
  double* merged;      // [statistics, groups], or null
};

// Groups are rows. With `merged`, the kernel only stores the statistics of each group there: for a second pass, or for
// a call on a part of the labels.
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kGroupUnitBlocks<LossTemplate<Compute<In>>, In>)) row_statistics(
    const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
    const __grid_constant__ Units units,
    const __grid_constant__ UnitStatistics<StatisticsOf<LossTemplate<Compute<In>>, Compute<In>>> per_unit,
    const __grid_constant__ Total total) {
  using T = Compute<In>;
  using Group = GroupRow<LossTemplate, In>;
  Group group(call, out);
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    group.start(r);
    const auto stats = group.statistics(row, tile_of(units, row, r, tile));
    const auto own = per_unit.units + (r - units.first_row) * units.tiles;
    if (threadIdx.x == 0) own[tile] = stats;
    if (!last_to_arrive(per_unit.counters + r, static_cast<unsigned>(units.tiles))) return;
    const auto all = join<typename Group::Loss, T>(own, units.tiles);
    if (per_unit.merged) return store_statistics<typename Group::Loss, T>(all, per_unit.merged, call.rows, r);
    if constexpr (Group::Loss::kSecondPassSums == 0) {
      const T value = group.finalize(all, {});
      add_to_total<T>(call, total, static_cast<double>(value), r, static_cast<unsigned>(call.rows));
    }
  });
}

// Takes second-pass sums with the merged statistics of rows, [statistics, rows]. per_unit: [rows * tiles]. counters: as
// in UnitStatistics. A call on a part of the labels only stores the sums of each row, to second_out: [second-pass sums,
// rows].
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kGroupUnitBlocks<LossTemplate<Compute<In>>, In>))
    row_second_pass(const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
                    const __grid_constant__ Units units, const double* merged,
                    SecondPassSums<LossTemplate<Compute<In>>, Compute<In>>* per_unit, unsigned* counters,
                    double* second_out, const __grid_constant__ Total total) {
  using T = Compute<In>;
  using Group = GroupRow<LossTemplate, In>;
  using Loss = typename Group::Loss;
  Group group(call, out);
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    group.start(r);
    const auto stats = load_statistics<Loss, T>(merged, call.rows, r);
    const auto sums = group.second_pass_sums(row, tile_of(units, row, r, tile), stats);
    const auto own = per_unit + (r - units.first_row) * units.tiles;
    if (threadIdx.x == 0) own[tile] = sums;
    if (!last_to_arrive(counters + r, static_cast<unsigned>(units.tiles))) return;
    const auto all = join_sums(own, units.tiles);
    SecondPassSums<Loss, T> narrowed;
#pragma unroll
    for (int k = 0; k < Loss::kSecondPassSums; ++k) {
      if (second_out && threadIdx.x == 0) second_out[k * call.rows + r] = all[k];
      narrowed[k] = static_cast<T>(all[k]);
    }
    if (second_out) return;
    const T value = group.finalize(stats, narrowed);
    add_to_total<T>(call, total, static_cast<double>(value), r, static_cast<unsigned>(call.rows));
  });
}

// The group is the whole batch; the weight of a row applies to its elements. `merged` is as in row_statistics().
template <template <class> class LossTemplate, class In>
__global__ void __launch_bounds__(kUnitThreads, (kGroupUnitBlocks<LossTemplate<Compute<In>>, In>)) all_statistics(
    const __grid_constant__ DeviceCall call, const __grid_constant__ ForwardOutputs out,
    const __grid_constant__ Units units,
    const __grid_constant__ UnitStatistics<StatisticsOf<LossTemplate<Compute<In>>, Compute<In>>> per_unit) {
  using T = Compute<In>;
  using Group = GroupRow<LossTemplate, In>;
  using Loss = typename Group::Loss;
  Group group(call, out);
  auto stats = identity<Loss, T>();
  for_units(units, [&](int64_t r, int tile) {
    const LogitsRow<In> row(call, r);
    group.start(r);
    const T weight = sample_weight<T>(call, r);
    const auto sums = group.thread_sums(row, tile_of(units, row, r, tile));
#pragma unroll
    for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] += weight == T(0) ? T(0) : weight * sums[k];
  });
  stats.sums = block_sum(stats.sums);
  if (threadIdx.x == 0) per_unit.units[blockIdx.x] = stats;
  if (!last_to_arrive(per_unit.counters, gridDim.x)) return;
  const auto all = join<Loss, T>(per_unit.units, static_cast<int>(gridDim.x));
  if (per_unit.merged) return store_statistics<Loss, T>(all, per_unit.merged, 1, 0);
  group.finalize_all(all);
}

}  // namespace cuda
}  // namespace mlloss
