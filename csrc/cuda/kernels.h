// The table of CUDA kernels: what register.cpp calls. One .cu a dtype defines and launches them.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "../core/launch_plan.h"
#include "../core/params.h"

namespace mlloss {
namespace cuda {

// Where a launch goes, and how. Groups that are labels have a plan of their own for their statistics.
struct Launch {
  const LaunchPlan& plan;
  cudaStream_t stream;
  const LaunchPlan* down_rows = nullptr;
};

// Memory that a forward pass leaves its results in on their way to another block; sizes from workspace_of.
struct Workspace {
  double* partial_sums;  // of the total
  void* statistics;      // of a split pass
  unsigned* counters;    // zeros, and zeros again afterwards: the total's, then one a row of a split pass
};

struct WorkspaceSizes {
  int64_t partial_sums, statistics_bytes, counters;
};

struct LossKernels {
  bool element_wise, across_rows;
  bool row_resident;  // has kernels that hold a row: resident, cluster
  int statistics, second_pass_sums, coefficients;
  WorkspaceSizes (*workspace_of)(const Launch&, const Call&);
  // How many of a plan's clusters run at once on the current device; 0: none.
  cudaError_t (*clusters_of)(const LaunchPlan&, int* most);
  cudaError_t (*forward)(const Launch&, const Call&, const ForwardOutputs&, const Workspace&);
  // row_sums, scale_sums: [rows * plan.tiles], sums of the gradient over each tile; or null.
  cudaError_t (*backward)(const Launch&, const Call&, const BackwardOutputs&, double* row_sums, double* scale_sums);
  // sums: [plan.tiles, labels]
  cudaError_t (*label_gradient)(const Launch&, const Call&, const BackwardOutputs&, double* sums);

  // Of a part of the labels, by a split plan. `spare`: coefficients that nobody reads.
  cudaError_t (*statistics_of)(const Launch&, const Call&, void* spare, const Workspace&, double* out);
  cudaError_t (*second_pass_of)(const Launch&, const Call&, const double* known, void* spare, const Workspace&,
                                double* out);
  // Of all parts. The one is null but for double, which statistics are in, the other but for float and double, which
  // results are in.
  cudaError_t (*merge)(cudaStream_t, const LabelParts&, double* out);
  cudaError_t (*finalize)(cudaStream_t, const Call&, const LabelParts&, const ForwardOutputs&, const Workspace&);
};

struct Table {
  const LossKernels* losses;  // by place in the registry
  int count;
  cudaError_t (*scale)(cudaStream_t, const DeviceFacts&, void* gradient, int64_t count, const void* grad_output);
  // *total = sum of parts * call.factor / *call.normalizer
  cudaError_t (*sum_total)(cudaStream_t, const Call&, const double* partial_sums, int64_t count, void* total);
  // out[i] = sum over j < count of parts[i * stride + j * step]
  cudaError_t (*sum_each)(cudaStream_t, const double* partial_sums, int64_t results, int64_t stride, int64_t count,
                          int64_t step, void* out);
};

// The plan of a forward pass that the current device runs. A persistent grid has no more clusters than run at once,
// for its last ones would start when the first are done; where not one runs, no memory holds the rows.
inline cudaError_t plan_that_runs(const LossKernels& kernels, const Problem& problem, const DeviceFacts& facts,
                                  Strategy wanted, LaunchPlan* plan) {
  *plan = plan_forward(problem, facts, wanted);
  if (plan->cluster == 1) return cudaSuccess;
  int most = 0;
  const cudaError_t error = kernels.clusters_of(*plan, &most);
  if (error != cudaSuccess) return error;
  if (most > 0) {
    plan->blocks = std::min(plan->blocks, int64_t{most} * plan->cluster);
  } else {
    *plan = plan_forward(problem, facts, few_long_rows(problem, facts) ? Strategy::kSplit : Strategy::kStreaming);
  }
  return cudaSuccess;
}

Table table_float();
Table table_double();
Table table_half();
Table table_bfloat16();

// Zeros of the current device that last as long as the process: one for each stream that asks.
constexpr int kStreamCounters = 256;
cudaError_t stream_counters(unsigned** first);

}  // namespace cuda
}  // namespace mlloss
