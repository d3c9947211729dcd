// What tests ask the emulated engine for.
#include <cuda_runtime.h>

// Kernels launched since the process began.
extern "C" __attribute__((visibility("default"))) int cuemu_launches() { return cuemu::launches; }
