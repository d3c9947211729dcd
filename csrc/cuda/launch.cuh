// How a kernel is launched. Permissions and the number of clusters that run at once are requested from the driver once.
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
  int cluster = 1;
};

inline dim3 grid_of(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

// Returns the shape for a plan with a one-dimensional grid.
inline LaunchShape launch_shape_of(const Launch& to) {
  return {grid_of(to.plan.blocks), to.plan.threads, to.plan.shared_bytes, to.stream, to.plan.cluster};
}

// A cache of answers of the driver, safe for any number of host threads.
template <class Key, class Value>
class DriverCache {
 public:
  // f(&value) finds an answer that is not known yet. Errors are not cached.
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

// Allows the largest amount of shared memory that a block of the device may have. With each launch's own amount, one
// host thread could lower the limit just before another one launches.
template <class... P>
cudaError_t allow_most_shared(void (*kernel)(P...), int device) {
  int most = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - static_cast<int>(kStaticShared));
}

template <class... P>
cudaError_t allow_wide_clusters(void (*kernel)(P...)) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// Requests what a launch needs beyond the common limits, once for each kernel, device and need.
template <class... P>
cudaError_t allow(void (*kernel)(P...), const LaunchShape& shape) {
  // The kernel's static shared memory counts too.
  const bool shared = shape.shared_bytes + kStaticShared > kSharedWithoutOptIn;
  const bool wide = shape.cluster > kPortableCluster;
  if (!shared && !wide) return cudaSuccess;
  static DriverCache<KernelOnDevice, bool> has_shared, has_wide;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const KernelOnDevice key{reinterpret_cast<const void*>(kernel), device};
  bool done = true;
  if (shared) error = has_shared.get(key, &done, [&](bool*) { return allow_most_shared(kernel, device); });
  if (wide && error == cudaSuccess)
    error = has_wide.get(key, &done, [&](bool*) { return allow_wide_clusters(kernel); });
  return error;
}

// A launch in the form of the CUDA runtime. It contains a pointer to itself.
struct Configuration {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  explicit Configuration(const LaunchShape& shape) {
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config.stream = shape.stream;
    if (shape.cluster == 1) return;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  Configuration(const Configuration&) = delete;
};

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), const LaunchShape& shape, A... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0) return cudaSuccess;
  const cudaError_t error = allow(kernel, shape);
  if (error != cudaSuccess) return error;
  const Configuration configuration(shape);
  // The returned error is about this launch only; cudaGetLastError would include errors of earlier calls.
  return cudaLaunchKernelEx(&configuration.config, kernel, static_cast<P>(args)...);
}

// Finds how many of a plan's clusters the current device runs at once; 0 if none fits.
template <class... P>
cudaError_t most_clusters(void (*kernel)(P...), const LaunchPlan& plan, int* most) {
  using Key = std::tuple<KernelOnDevice, int, int, int64_t>;
  static DriverCache<Key, int> known;
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const KernelOnDevice here{reinterpret_cast<const void*>(kernel), device};
  return known.get(Key{here, plan.cluster, plan.threads, plan.shared_bytes}, most, [&](int* found) {
    const LaunchShape shape = launch_shape_of(Launch{plan, nullptr});
    const cudaError_t refused = allow(kernel, shape);
    if (refused != cudaSuccess) return refused;
    const Configuration configuration(shape);
    return cudaOccupancyMaxActiveClusters(found, kernel, &configuration.config);
  });
}

}  // namespace cuda
}  // namespace mlloss
