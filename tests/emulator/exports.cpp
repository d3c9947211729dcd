// The functions by which tests query the emulated engine.
#include <cuda_runtime.h>

#include "core/numerics.h"

// Kernels launched since the process began.
extern "C" __attribute__((visibility("default"))) int cuemu_launches() { return cuemu::launches; }

// Those of them whose blocks all ran at the same time, as teams of several blocks do.
extern "C" __attribute__((visibility("default"))) int cuemu_cooperative_launches() {
  return cuemu::cooperative_launches;
}

// The launches that the emulator has refused.
extern "C" __attribute__((visibility("default"))) int cuemu_refusals() { return cuemu::refusals; }

// The bytes of the chunks that kernels have read, 16 bytes at a time.
extern "C" __attribute__((visibility("default"))) long long cuemu_chunk_bytes() { return cuemu::chunk_bytes; }

// How often the device was asked how many blocks run at once.
extern "C" __attribute__((visibility("default"))) int cuemu_occupancy_queries() { return cuemu::occupancy_queries; }

// The special-function unit's results, as the emulator has them.
extern "C" __attribute__((visibility("default"))) float cuemu_exp2(float x) { return mlloss::exp2_approximate(x); }
extern "C" __attribute__((visibility("default"))) float cuemu_reciprocal(float x) { return mlloss::reciprocal(x); }

// The error that the next cudaGetLastError would take; one that some other call has left there; and that one taken.
extern "C" __attribute__((visibility("default"))) int cuemu_last_error() { return cuemu::last_error; }
extern "C" __attribute__((visibility("default"))) void cuemu_leave_error() { cuemu::refuse(cudaErrorInvalidValue); }
extern "C" __attribute__((visibility("default"))) void cuemu_forget_error() { cudaGetLastError(); }
