// Macros for the differences between host compilers, nvcc and the CUDA emulator.
#pragma once

#if defined(__CUDACC__)
#define MLLOSS_HD __host__ __device__ __forceinline__
#else
#define MLLOSS_HD inline __attribute__((always_inline))
#endif

// Each instruction set has its own namespace, because the linker merges templates of the same name, and an AVX2 machine
// would then run AVX-512.
#ifndef MLLOSS_ISA
#define MLLOSS_ISA portable
#endif
