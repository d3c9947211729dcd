// The table of CUDA kernels: what register.cpp calls. One .cu a dtype defines and launches them.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/launch_plan.h"
#include "../core/params.h"

namespace mlloss {
namespace cuda {

// Where a launch goes, and how.
struct Launch {
  const LaunchPlan& plan;
  cudaStream_t stream;
};

struct Kernels {
  bool element_wise;
  int coefficients;
  // partials: [plan.blocks], what the total sums up; or null.
  cudaError_t (*forward)(const Launch&, const Call&, const ForwardOutputs&, double* partials);
  // row_sums, scale_sums: [rows * plan.tiles], sums of the gradient over each tile; or null.
  cudaError_t (*backward)(const Launch&, const Call&, const BackwardOutputs&, double* row_sums, double* scale_sums);
  // sums: [plan.tiles, labels]
  cudaError_t (*label_gradient)(const Launch&, const Call&, const BackwardOutputs&, double* sums);
};

struct Table {
  const Kernels* losses;  // by place in the registry
  int count;
  cudaError_t (*scale)(cudaStream_t, const DeviceFacts&, void* gradient, int64_t count, const void* grad_output);
  // *total = sum of parts * call.factor / *call.normalizer
  cudaError_t (*sum_total)(cudaStream_t, const Call&, const double* parts, int64_t count, void* total);
  // out[i] = sum over j < count of parts[i * stride + j * step]
  cudaError_t (*sum_each)(cudaStream_t, const double* parts, int64_t results, int64_t stride, int64_t count,
                          int64_t step, void* out);
};

Table table_float();
Table table_double();
Table table_half();
Table table_bfloat16();

}  // namespace cuda
}  // namespace mlloss
