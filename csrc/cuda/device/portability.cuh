// Macros for the differences between CUDA and the emulator of tests/emulator, which runs the same kernels on the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#ifdef CUEMU
#define MLLOSS_SHARED(T, name, dims) CUEMU_SHARED(T, name, dims)
#define MLLOSS_DYNAMIC_SHARED(T, name) CUEMU_DYN_SHARED(T, name)
// The emulator identifies a barrier in a wrapper by the wrapper's caller.
#define MLLOSS_CALLER CUEMU_AT
#define MLLOSS_PASS_CALLER file_, line_
#else
#define MLLOSS_SHARED(T, name, dims) __shared__ T name dims
#define MLLOSS_DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(16) unsigned char mlloss_dynamic_shared_[]; \
  T* name = reinterpret_cast<T*>(mlloss_dynamic_shared_)
#define MLLOSS_CALLER
#define MLLOSS_PASS_CALLER
#endif

// The compute capability that the code is compiled for, 10 * major + minor.
#ifdef __CUDA_ARCH__
#define MLLOSS_CAPABILITY (__CUDA_ARCH__ / 10)
#else
#define MLLOSS_CAPABILITY 90
#endif

#define MLLOSS_DEVICE __device__ __forceinline__

namespace mlloss {
namespace cuda {

// Keeps a value in a register from here on, because compilers tend to compute addresses again at every use.
template <class T>
MLLOSS_DEVICE T keep(T x) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 8) {
    asm("" : "+l"(x));
  } else {
    asm("" : "+r"(x));
  }
#endif
  return x;
}

}  // namespace cuda
}  // namespace mlloss
