// Launches of kernels, and the number of their blocks that run at the same time.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

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

// A cache of results of driver calls, for any number of host threads.
template <class Key, class Value>
class DriverCache {
 public:
  // Sets `value` to the known result, or calls f(&value), which finds it. Errors are not cached.
  template <class F>
  cudaError_t get(const Key& key, Value* value, F f) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = known_.find(key);
    if (found != known_.end()) {
      *value = found->second;
      return cudaSuccess;
    }
    const cudaError_t error = f(value);
    if (error == cudaSuccess) known_.emplace(key, *value);
    return error;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Value> known_;
};

using KernelOnDevice = std::pair<const void*, int>;

// A launch in the form of the CUDA runtime. It is not copied, because it contains a pointer to itself.
struct Configuration {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  explicit Configuration(const LaunchShape& shape) {
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config.stream = shape.stream;
    if (!shape.together) return;
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  Configuration(const Configuration&) = delete;
};

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), const LaunchShape& shape, A... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0) return cudaSuccess;
  const Configuration configuration(shape);
  // The returned error is about this launch only; cudaGetLastError would include errors of earlier calls.
  return cudaLaunchKernelEx(&configuration.config, kernel, static_cast<P>(args)...);
}

// Finds the number of blocks of a plan that run on a multiprocessor at the same time.
template <class... P>
cudaError_t blocks_on_processor(void (*kernel)(P...), const LaunchPlan& plan, int* most) {
  using Key = std::tuple<KernelOnDevice, int, int64_t>;
  static DriverCache<Key, int> known;
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const KernelOnDevice here{reinterpret_cast<const void*>(kernel), device};
  return known.get(Key{here, plan.threads, plan.shared_bytes}, most, [&](int* found) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(found, kernel, plan.threads,
                                                         static_cast<size_t>(plan.shared_bytes));
  });
}

}  // namespace cuda
}  // namespace mlloss
