// The current device, its stream and its properties, and the errors of the CUDA runtime.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <mutex>

#include "../core/launch_plan.h"
#include "../ops.h"

#ifndef CUEMU
// Defined by libtorch_cuda. The symbol is weak, so that this library loads with a torch without CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace mlloss {
namespace cuda {

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which a later caller would otherwise get
  STD_TORCH_CHECK(false, "mlloss_cuda: CUDA error: ", cudaGetErrorString(error));
}

#ifdef CUEMU
struct DeviceScope {
  explicit DeviceScope(int) {}
};
inline int device_of(const Tensor&) { return 0; }
inline cudaStream_t current_stream(int) { return cuemu_current_stream(); }
#else
using DeviceScope = torch::stable::accelerator::DeviceGuard;
inline int device_of(const Tensor& tensor) { return tensor.get_device_index(); }
inline cudaStream_t current_stream(int device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "mlloss_cuda: this torch was built without CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

inline int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

inline DeviceFacts query_device(int device) {
  DeviceFacts facts{};
  facts.capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  facts.sm_count = attribute(cudaDevAttrMultiProcessorCount, device);
  facts.threads_per_sm = attribute(cudaDevAttrMaxThreadsPerMultiProcessor, device);
  facts.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  facts.l2_bytes = attribute(cudaDevAttrL2CacheSize, device);
  // Memory transfers twice a clock, which is given in kHz; kernels reach some 0.9 of the peak.
  const double transfers_per_ns = 2e-6 * attribute(cudaDevAttrMemoryClockRate, device);
  facts.bytes_per_ns = 0.9 * transfers_per_ns * attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8;
  return facts;
}

inline const DeviceFacts& facts_of(int device) {
  constexpr int kMostDevices = 128;
  static std::array<DeviceFacts, kMostDevices> facts;
  static std::array<std::once_flag, kMostDevices> queried;
  STD_TORCH_CHECK(device >= 0 && device < kMostDevices, "mlloss_cuda: the device index is out of range");
  const size_t i = static_cast<size_t>(device);
  std::call_once(queried[i], [&] { facts[i] = query_device(device); });
  return facts[i];
}

}  // namespace cuda
}  // namespace mlloss
