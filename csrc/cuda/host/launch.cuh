// Launches of kernels, and the number of their blocks that run at the same time.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels.h"

namespace mlloss {
namespace cuda {

// The configuration of a launch, without kernel and arguments.
struct LaunchShape {
  dim3 grid;
  int threads;
  int64_t shared_bytes;
  cudaStream_t stream;
  bool together = false;  // all blocks run at the same time, in a cooperative launch
};

inline dim3 grid_of(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

// Returns the shape for a plan with a one-dimensional grid.
inline LaunchShape launch_shape_of(const Launch& to) {
  return {grid_of(to.plan.blocks), to.plan.threads, to.plan.shared_bytes, to.stream, to.plan.team > 1};
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), const LaunchShape& shape, A... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0) return cudaSuccess;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = shape.stream;
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  config.attrs = &cooperative;
  config.numAttrs = shape.together ? 1 : 0;
  // The returned error is about this launch only; cudaGetLastError would include errors of earlier calls.
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

// Finds the number of blocks of a plan that run on a multiprocessor at the same time. The driver's answers are kept,
// for any number of host threads; its errors are not.
inline cudaError_t blocks_on_processor(const void* kernel, const LaunchPlan& plan, int* most) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int, int64_t>, int> known;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(kernel, device, plan.threads, plan.shared_bytes);
  const auto found = known.find(key);
  if (found != known.end()) {
    *most = found->second;
    return cudaSuccess;
  }
  error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(most, kernel, plan.threads, static_cast<size_t>(plan.shared_bytes));
  if (error == cudaSuccess) known.emplace(key, *most);
  return error;
}

}  // namespace cuda
}  // namespace mlloss
