// Launches of every kernel for one logits dtype. CUDA hides kernels from other translation units, so
// a .cu that includes this both defines and launches them.
#pragma once

#include "../losses/registry.h"
#include "backward.cuh"
#include "element_wise.cuh"
#include "kernels.h"
#include "label_gradient.cuh"
#include "reduce.cuh"
#include "resident.cuh"
#include "scale.cuh"
#include "streaming.cuh"

namespace mlloss {
namespace cuda {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, int threads, int64_t shared_bytes, cudaStream_t stream, A... args) {
  if (grid.x == 0 || grid.y == 0) return cudaSuccess;
  // Above this, shared memory is given on request only.
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
  return error != cudaSuccess ? error : cudaGetLastError();
}

inline dim3 grid_of(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

inline Units units_of(const LaunchPlan& plan, const Call& call) {
  return {call.rows, static_cast<int>(plan.tiles), static_cast<int>(plan.chunks_per_tile), plan.blocks / plan.tiles,
          static_cast<int>(plan.blocks % plan.tiles)};
}

template <template <class> class Loss, class In>
struct Launches {
  static constexpr bool kElementWise = Loss<Compute<In>>::kScope == Scope::kElement;

  static cudaError_t forward(const Launch& to, const Call& call, const ForwardOutputs& out, double* partials) {
    const LaunchPlan& plan = to.plan;
    const dim3 grid = grid_of(plan.blocks);
    if constexpr (kElementWise) {
      return launch(element_wise<Loss, In>, grid, plan.threads, 0, to.stream, DeviceCall(call), out,
                    units_of(plan, call), partials);
    } else {
      const auto kernel = plan.strategy == Strategy::kResident ? resident<Loss, In> : streaming<Loss, In>;
      return launch(kernel, grid, plan.threads, plan.shared_bytes, to.stream, DeviceCall(call), out, partials);
    }
  }

  static cudaError_t backward(const Launch& to, const Call& call, const BackwardOutputs& out, double* row_sums,
                              double* scale_sums) {
    const auto kernel = [] {
      if constexpr (kElementWise)
        return element_wise_backward<Loss, In>;
      else
        return group_backward<Loss, In>;
    }();
    return launch(kernel, grid_of(to.plan.blocks), to.plan.threads, 0, to.stream, DeviceCall(call), out,
                  units_of(to.plan, call), UnitSums{row_sums, scale_sums});
  }

  static cudaError_t label_sums(const Launch& to, const Call& call, const BackwardOutputs& out, double* sums) {
    const dim3 grid(static_cast<unsigned>(to.plan.blocks / to.plan.tiles), static_cast<unsigned>(to.plan.tiles));
    return launch(label_gradient<Loss, In>, grid, to.plan.threads, 0, to.stream, DeviceCall(call), out, sums);
  }

  static constexpr Kernels table() {
    return {kElementWise, Loss<Compute<In>>::kCoefficients, forward, backward, label_sums};
  }
};

template <class In>
cudaError_t launch_scale(cudaStream_t stream, const DeviceFacts& device, void* gradient, int64_t count,
                         const void* grad_output) {
  const int64_t chunks = (count + kWidth<In> - 1) / kWidth<In>;
  const int64_t blocks = std::min<int64_t>((chunks + 255) / 256, int64_t{16} * device.sm_count);
  return launch(scale<In>, grid_of(blocks), 256, 0, stream, static_cast<In*>(gradient), count,
                static_cast<const Compute<In>*>(grad_output));
}

template <class T>
cudaError_t launch_sum_total(cudaStream_t stream, const Call& call, const double* parts, int64_t count, void* total) {
  return launch(sum_total<T>, dim3(1), 256, 0, stream, parts, count, call.factor,
                static_cast<const T*>(call.normalizer), static_cast<T*>(total));
}

template <class T>
cudaError_t launch_sum_each(cudaStream_t stream, const double* parts, int64_t results, int64_t stride, int64_t count,
                            int64_t step, void* out) {
  return launch(sum_each<T>, grid_of((results + 127) / 128), 128, 0, stream, parts, results, stride, count, step,
                static_cast<T*>(out));
}

template <class In>
Table table_of() {
#define MLLOSS_LAUNCHES(name, Functor) Launches<Functor, In>::table(),
  static constexpr Kernels kLosses[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_LAUNCHES)};
#undef MLLOSS_LAUNCHES
  using T = Compute<In>;
  return {kLosses, static_cast<int>(sizeof(kLosses) / sizeof(kLosses[0])), launch_scale<In>, launch_sum_total<T>,
          launch_sum_each<T>};
}

}  // namespace cuda
}  // namespace mlloss
