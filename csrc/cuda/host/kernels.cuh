// The launches of all kernels for one logits dtype. CUDA hides kernels from other translation units, so a .cu that
// includes this file both defines and launches them.
#pragma once

#include "../device/loss_traits.h"
#include "../kernels/backward.cuh"
#include "../kernels/down_rows.cuh"
#include "../kernels/element_wise.cuh"
#include "../kernels/group_parts.cuh"
#include "../kernels/pair.cuh"
#include "../kernels/reduce.cuh"
#include "../kernels/scale.cuh"
#include "../kernels/split.cuh"
#include "../kernels/team.cuh"
#include "../kernels/team_general.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace mlloss {
namespace cuda {

inline Units units_of(const LaunchPlan& plan, int64_t first_row, int64_t rows) {
  return {first_row,
          rows,
          static_cast<int>(plan.tiles),
          static_cast<int>(plan.chunks_per_tile),
          plan.blocks / plan.tiles,
          static_cast<int>(plan.blocks % plan.tiles)};
}

template <template <class> class Loss, class In>
struct Launches {
  using T = Compute<In>;
  using Functor = Loss<T>;
  using Stats = StatisticsOf<Functor, T>;
  using SecondSums = SecondPassSums<Functor, T>;
  static constexpr int kStatistics = Functor::kMaxima + Functor::kSums;
  static constexpr bool kElementWise = Functor::kScope == Scope::kElement;
  static constexpr bool kAcrossRows = Functor::kAcrossRows;
  static constexpr bool kTeams = !kElementWise && !std::is_same_v<In, double>;
  static_assert(!kAcrossRows || Functor::kSecondPassSums == 0, "only rows have second-pass sums");

  static WorkspaceSizes workspace_of(const Launch& to, const Call& call) {
    const LaunchPlan& plan = to.plan;
    if (plan.strategy == Strategy::kTeam && plan.team > 1) {
      return {plan.blocks, 0, 2, 2 * plan.blocks * kTeamPackets<Functor>};
    }
    if (plan.strategy != Strategy::kSplit) return {plan.blocks, 0, 1, 0};
    const int64_t bytes = static_cast<int64_t>(sizeof(Stats) + Functor::kSecondPassSums * sizeof(T));
    switch (call.grouping) {
      case Grouping::kSamples:
        return {call.rows, plan.rows_per_wave * plan.tiles * bytes + merged_numbers(call) * 8, 1 + call.rows, 0};
      case Grouping::kMacro:
        return {divide_up(call.labels, kLabelThreads),
                to.down_rows->tiles * Functor::kSums * call.labels * int64_t{sizeof(T)}, 1, 0};
      default:
        return {0, plan.blocks * bytes, 1, 0};
    }
  }

  static cudaError_t forward(const Launch& to, const Call& call, const ForwardOutputs& out, const Workspace& work) {
    const Total total{out.total, work.partial_sums, work.counters};
    if constexpr (Functor::kSecondLogits) {
      if (out.other_gradient) return both_gradients(to, call, gradient_of(out), total);
    }
    if constexpr (kElementWise) {
      return launch(element_wise<Loss, In>, launch_shape_of(to), DeviceCall(call), out, units_of(to.plan, 0, call.rows),
                    total);
    } else {
      if (to.plan.strategy == Strategy::kSplit) return split(to, call, out, work, total);
      return team(to, call, out, work, total);
    }
  }

  static cudaError_t team_blocks(const LaunchPlan& plan, FastPath path, int* most) {
    *most = 0;
    if constexpr (kTeams) {
      return with_team_kernel(
          path, [&](auto kernel) { return blocks_on_processor(reinterpret_cast<const void*>(kernel), plan, most); });
    }
    return cudaSuccess;
  }

  static cudaError_t whole_gradient(const Launch& to, const Call& call, const BackwardOutputs& out, double* row_sums,
                                    double* scale_sums) {
    if constexpr (Functor::kSecondLogits) {
      if (out.other_gradient) return both_gradients(to, call, out, Total{});
    }
    return gradient(to, call, out, units_of(to.plan, 0, call.rows), UnitSums{row_sums, scale_sums});
  }

  static cudaError_t label_sums(const Launch& to, const Call& call, const BackwardOutputs& out, double* sums) {
    return launch(label_gradient<Loss, In>, down_rows(to.plan, to.stream), DeviceCall(call), out, sums);
  }

  static cudaError_t second_pass(const Launch& to, const Call& call, const double* known, const Workspace& work,
                                 double* result) {
    return launch(row_second_pass<Loss, In>, launch_shape_of(to), DeviceCall(call), ForwardOutputs{},
                  units_of(to.plan, 0, call.rows), known, static_cast<SecondSums*>(work.statistics), work.counters + 1,
                  result, Total{});
  }

  static cudaError_t merge(cudaStream_t stream, const LabelParts& parts, double* out) {
    return launch(merge_parts<Loss, In>, LaunchShape{grid_of(parts.groups), kWarpThreads, 0, stream}, parts, out);
  }

  static constexpr LossKernels table() {
    LossKernels kernels{
        kElementWise,
        kAcrossRows,
        kStatistics,
        Functor::kSecondPassSums,
        Functor::kCoefficients,
        workspace_of,
        {team_threads<FastPath::kNone>(), team_threads<FastPath::kSparse>(), team_threads<FastPath::kBools>()},
        team_blocks,
        forward,
        whole_gradient,
        label_sums,
        nullptr,
        nullptr,
        nullptr};
    if constexpr (!kElementWise) {
      if constexpr (Functor::kSecondPassSums > 0) kernels.second_pass_of = second_pass;
      if constexpr (std::is_same_v<In, double>) kernels.merge = merge;
      if constexpr (std::is_same_v<In, T>) kernels.finalize = finalize<true>;
    }
    return kernels;
  }

 private:
  template <bool kLabelParts>
  static cudaError_t finalize(cudaStream_t stream, const Call& call, const GroupParts<PartOf<In, kLabelParts>>& parts,
                              const ForwardOutputs& out, const Workspace& work) {
    DeviceCall own(call);
    if (crosses_rows(call)) own.sample_weight = nullptr;  // already in the statistics
    const int64_t blocks = divide_up(parts.groups * (kLabelParts ? kWarpThreads : 1), kLabelThreads);
    return launch(finalize_groups<Loss, In, kLabelParts>,
                  LaunchShape{grid_of(std::max<int64_t>(1, blocks)), kLabelThreads, 0, stream}, own, parts, out,
                  Total{out.total, work.partial_sums, work.counters});
  }

  static cudaError_t both_gradients(const Launch& to, const Call& call, const BackwardOutputs& out,
                                    const Total& total) {
    return launch(pair_gradients<Loss, In>, launch_shape_of(to), DeviceCall(call), out, units_of(to.plan, 0, call.rows),
                  total);
  }

  static LaunchShape down_rows(const LaunchPlan& plan, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(plan.blocks / plan.tiles), static_cast<unsigned>(plan.tiles));
    return {grid, plan.threads, 0, stream};
  }

  static cudaError_t gradient(const Launch& to, const Call& call, const BackwardOutputs& out, const Units& units,
                              const UnitSums& sums) {
    if constexpr (kAcrossRows) {
      if (call.grouping == Grouping::kMacro) {
        return launch(backward<Loss, In, true>, launch_shape_of(to), DeviceCall(call), out, units, sums);
      }
    }
    return launch(backward<Loss, In, false>, launch_shape_of(to), DeviceCall(call), out, units, sums);
  }

  template <FastPath kPath>
  static constexpr int team_threads() {
    if constexpr (kTeams) return kTeamBlocks<Functor, kPath> * kTeamThreads;
    return 0;
  }

  // Calls f with the team kernel for a call.
  template <class F>
  static cudaError_t with_team_kernel(FastPath path, F f) {
    switch (path) {
      case FastPath::kSparse:
        return f(team_rows<Loss, In, FastPath::kSparse>);
      case FastPath::kBools:
        return f(team_rows<Loss, In, FastPath::kBools>);
      default:
        return f(general_team_rows<Loss, In>);
    }
  }

  static cudaError_t team(const Launch& to, const Call& call, const ForwardOutputs& out, const Workspace& work,
                          const Total& total) {
    if constexpr (kTeams) {
      const TeamLaunch team{to.plan.team, static_cast<int>(to.plan.chunks_per_tile),
                            static_cast<int>(to.plan.chunks_per_warp), work.packets, work.counters + 1};
      return with_team_kernel(team_path_of(call, out.gradient), [&](auto kernel) {
        return launch(kernel, launch_shape_of(to), DeviceCall(call), out, team, total);
      });
    }
    return cudaErrorNotSupported;  // the planner chooses no team for these losses
  }

  // Takes statistics and coefficients, then forms the gradient from the coefficients.
  static cudaError_t split(const Launch& to, const Call& call, const ForwardOutputs& out, const Workspace& work,
                           const Total& total) {
    if (call.grouping == Grouping::kSamples) return split_rows(to, call, out, work, total);
    if constexpr (kAcrossRows) {
      cudaError_t error =
          call.grouping == Grouping::kMacro ? label_groups(to, call, out, work) : one_group(to, call, out, work);
      if (error != cudaSuccess || !out.gradient) return error;
      return gradient(to, call, gradient_of(out), units_of(to.plan, 0, call.rows), UnitSums{});
    }
    return cudaErrorNotSupported;
  }

  static BackwardOutputs gradient_of(const ForwardOutputs& out) {
    BackwardOutputs backward{};
    backward.coefficients = out.coefficients;
    backward.gradient = out.gradient;
    backward.other_gradient = out.other_gradient;
    return backward;
  }

  // Returns how many merged statistics the first pass over the rows stores for the second one.
  static int64_t merged_numbers(const Call& call) { return Functor::kSecondPassSums > 0 ? kStatistics * call.rows : 0; }

  // Runs in waves, so that a wave's gradient is formed while its logits are still in L2.
  static cudaError_t split_rows(const Launch& to, const Call& call, const ForwardOutputs& out, const Workspace& work,
                                const Total& total) {
    double* const memory = static_cast<double*>(work.statistics);
    double* merged = work.merged;
    if (!merged && merged_numbers(call) > 0) merged = memory;
    const UnitStatistics<Stats> per_unit{reinterpret_cast<Stats*>(memory + merged_numbers(call)), work.counters + 1,
                                         merged};
    for (int64_t first = 0; first < call.rows; first += to.plan.rows_per_wave) {
      const Units units = units_of(to.plan, first, std::min(to.plan.rows_per_wave, call.rows - first));
      cudaError_t error =
          launch(row_statistics<Loss, In>, launch_shape_of(to), DeviceCall(call), out, units, per_unit, total);
      if constexpr (Functor::kSecondPassSums > 0) {
        auto* second_sums = reinterpret_cast<SecondSums*>(per_unit.units + to.plan.rows_per_wave * to.plan.tiles);
        if (error == cudaSuccess && !work.merged) {
          error = launch(row_second_pass<Loss, In>, launch_shape_of(to), DeviceCall(call), out, units, merged,
                         second_sums, per_unit.counters, nullptr, total);
        }
      }
      if (error == cudaSuccess && out.gradient) error = gradient(to, call, gradient_of(out), units, UnitSums{});
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

  static cudaError_t one_group(const Launch& to, const Call& call, const ForwardOutputs& out, const Workspace& work) {
    const UnitStatistics<Stats> per_unit{static_cast<Stats*>(work.statistics), work.counters, work.merged};
    return launch(all_statistics<Loss, In>, launch_shape_of(to), DeviceCall(call), out, units_of(to.plan, 0, call.rows),
                  per_unit);
  }

  static cudaError_t label_groups(const Launch& to, const Call& call, const ForwardOutputs& out,
                                  const Workspace& work) {
    T* sums = static_cast<T*>(work.statistics);
    const cudaError_t error =
        launch(label_statistics<Loss, In>, down_rows(*to.down_rows, to.stream), DeviceCall(call), sums);
    if (error != cudaSuccess) return error;
    return finalize<false>(to.stream, call, {to.down_rows->tiles, call.labels, sums, nullptr}, out, work);
  }
};

template <class In>
cudaError_t launch_scale(cudaStream_t stream, const DeviceFacts& device, void* gradient, int64_t count,
                         const void* grad_output) {
  const int64_t chunks = (count + kWidth<In> - 1) / kWidth<In>;
  const int64_t blocks = std::min<int64_t>((chunks + 255) / 256, int64_t{16} * device.sm_count);
  return launch(scale<In>, LaunchShape{grid_of(blocks), 256, 0, stream}, static_cast<In*>(gradient), count,
                static_cast<const Compute<In>*>(grad_output));
}

template <class T>
cudaError_t launch_empty_total(cudaStream_t stream, const Call& call, void* total) {
  return launch(empty_total<T>, LaunchShape{dim3(1), kWarpThreads, 0, stream}, DeviceCall(call), total);
}

template <class T>
cudaError_t launch_sum_each(cudaStream_t stream, const double* partial_sums, int64_t results, int64_t stride,
                            int64_t count, int64_t step, void* out) {
  return launch(sum_each<T>, LaunchShape{grid_of((results + 127) / 128), 128, 0, stream}, partial_sums, results, stride,
                count, step, static_cast<T*>(out));
}

template <class In>
Table table_of() {
#define MLLOSS_LAUNCHES(name, Functor) Launches<Functor, In>::table(),
  static constexpr LossKernels kLosses[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_LAUNCHES)
                                                MLLOSS_FOR_EACH_COMPOUND(MLLOSS_LAUNCHES)};
#undef MLLOSS_LAUNCHES
  using T = Compute<In>;
  return {kLosses, static_cast<int>(sizeof(kLosses) / sizeof(kLosses[0])), launch_scale<In>, launch_empty_total<T>,
          launch_sum_each<T>};
}

}  // namespace cuda
}  // namespace mlloss
