// Shadows the toolkit's header when kernels are compiled for the host: the runtime's host functions.
#pragma once
#include "async_copy.h"
#include "cooperative_groups.h"
#include "device_functions.h"

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* cfg, void (*kernel)(P...), A&&... a) {
  return cuemu::launch_tuple(*cfg, kernel, std::tuple<std::remove_cv_t<P>...>(std::forward<A>(a)...),
                             std::index_sequence_for<P...>());
}
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute a, int v) {
  if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (v > 227 << 10) return cudaErrorInvalidValue;
    cuemu::smem_limit = size_t(v);
  }
  return cudaSuccess;
}
// As many as rows of two clusters need: a persistent grid must stride.
template <class K>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, K*, const cudaLaunchConfig_t*) {
  *count = 2;
  return cudaSuccess;
}
// CUEMU_CAPTURING=1 takes the paths of a graph's capture.
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cuemu::env("CUEMU_CAPTURING", "0")[0] == '1' ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
template <class T>
cudaError_t cudaGetSymbolAddress(void** address, T& symbol) {
  *address = &symbol;
  return cudaSuccess;
}
// A small device: grids that stride, clusters and waves are needed at small shapes too.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  switch (name) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = std::atoi(cuemu::env("CUEMU_SMS", "1"));
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 64 << 10;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 128 << 10;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return std::exchange(cuemu::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "cuemu launch error"; }
template <class T>
cudaError_t cudaMalloc(T** p, size_t n) {
  void* v;
  if (posix_memalign(&v, 256, n ? n : 1)) return cudaErrorMemoryAllocation;
  *p = static_cast<T*>(std::memset(v, 0xFF, n));
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) {
  std::memset(p, v, n);
  return cudaSuccess;
}
