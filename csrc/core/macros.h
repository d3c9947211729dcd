// What host compilers, nvcc and the CUDA emulator spell differently.
#pragma once

#if defined(__CUDACC__)
#define MLLOSS_HD __host__ __device__ __forceinline__
#else
#define MLLOSS_HD inline __attribute__((always_inline))
#endif

// One namespace for each instruction set a file is compiled for: templates of the same name from
// two sets would merge at link, and an AVX2 machine would run AVX-512.
#ifndef MLLOSS_ISA
#define MLLOSS_ISA portable
#endif
