// What tests ask the emulated engine for.
#include <cuda_runtime.h>

// Kernels launched since the process began.
extern "C" __attribute__((visibility("default"))) int cuemu_launches() { return cuemu::launches; }

// The error that the next cudaGetLastError would take; one that some other call has left there; and that one taken.
extern "C" __attribute__((visibility("default"))) int cuemu_last_error() { return cuemu::last_error; }
extern "C" __attribute__((visibility("default"))) void cuemu_leave_error() { cuemu::refuse(cudaErrorInvalidValue); }
extern "C" __attribute__((visibility("default"))) void cuemu_forget_error() { cudaGetLastError(); }
