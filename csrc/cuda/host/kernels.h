// The table of CUDA kernels, which register.cpp calls. kernels.cuh fills the table, and one .cu file for each dtype
// compiles it.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "../../core/launch_plan.h"
#include "../../core/params.h"
#include "../device/device_call.h"

namespace mlloss {
namespace cuda {

// The plan and the stream of a launch. down_rows is the plan for the statistics of groups that are labels.
struct Launch {
  const LaunchPlan& plan;
  cudaStream_t stream;
  const LaunchPlan* down_rows = nullptr;
};

// Memory in which blocks of a forward pass leave results for other blocks. workspace_of returns its size.
struct Workspace {
  double* partial_sums;  // of the total
  void* statistics;      // of a split pass
  unsigned* counters;    // zeros before and after a pass: one for the total, then one per row of a split pass or one
                         // for the end of a team pass
  uint64_t* packets;     // zeros before and after a team pass
  double* merged;        // receives the statistics of each group of a split pass, [statistics, groups]; or null
};

struct WorkspaceSizes {
  int64_t partial_sums, statistics_bytes, counters, packets;
};

struct LossKernels {
  bool element_wise, across_rows;
  int statistics, second_pass_sums, coefficients;
  WorkspaceSizes (*workspace_of)(const Launch&, const Call&);
  // The number of threads of team kernels that a multiprocessor has registers for, by fast path; 0 without such
  // kernels.
  int team_threads[3];
  // Finds the number of blocks of a team plan that a multiprocessor of the current device runs at the same time.
  cudaError_t (*team_blocks)(const LaunchPlan&, FastPath, int* most);
  // With Workspace::merged, a split pass ends with the statistics of its groups and has no outputs.
  cudaError_t (*forward)(const Launch&, const Call&, const ForwardOutputs&, const Workspace&);
  // row_sums, scale_sums: [rows * plan.tiles], sums of the gradient over each tile, or null.
  cudaError_t (*backward)(const Launch&, const Call&, const BackwardOutputs&, double* row_sums, double* scale_sums);
  // sums: [plan.tiles, labels]
  cudaError_t (*label_gradient)(const Launch&, const Call&, const BackwardOutputs&, double* sums);

  // Takes second-pass sums over a part of the labels, by a split plan, with the known statistics of all parts.
  cudaError_t (*second_pass_of)(const Launch&, const Call&, const double* known, const Workspace&, double* out);
  // Steps over all parts. `merge` exists only in the double table, because statistics are double; `finalize` exists
  // only in the float and double tables, because results have the compute dtype.
  cudaError_t (*merge)(cudaStream_t, const LabelParts&, double* out);
  cudaError_t (*finalize)(cudaStream_t, const Call&, const LabelParts&, const ForwardOutputs&, const Workspace&);
};

struct Table {
  const LossKernels* losses;  // in the order of the registry
  int count;
  cudaError_t (*scale)(cudaStream_t, const DeviceFacts&, void* gradient, int64_t count, const void* grad_output);
  // The total of a call without groups.
  cudaError_t (*empty_total)(cudaStream_t, const Call&, void* total);
  // out[i] = sum over j < count of partial_sums[i * stride + j * step]
  cudaError_t (*sum_each)(cudaStream_t, const double* partial_sums, int64_t results, int64_t stride, int64_t count,
                          int64_t step, void* out);
};

// Finds a forward plan that the current device can run. All blocks of a team plan have to run at the same time. The
// pass is split if the device does not hold one team.
inline cudaError_t plan_that_runs(const LossKernels& kernels, const Call& call, const ForwardOutputs& out,
                                  const DeviceFacts& facts, Strategy wanted, LaunchPlan* plan) {
  const FastPath path = team_path_of(call, out.gradient);
  Problem problem = problem_of(call, out.gradient != nullptr, kernels.team_threads[static_cast<int>(path)], path);
  int most = 0;
  // The second round serves a kernel that needs more registers here than the first plan assumed.
  for (int round = 0; round < 2; ++round) {
    *plan = plan_forward(problem, facts, wanted);
    if (plan->strategy != Strategy::kTeam) return cudaSuccess;
    const cudaError_t error = kernels.team_blocks(*plan, path, &most);
    if (error != cudaSuccess) return error;
    if (most * plan->threads >= problem.team_threads_per_sm - plan->threads + 1) break;
    problem.team_threads_per_sm = most * plan->threads;
  }
  const int64_t teams = int64_t{most} * team_processors(facts) / plan->team;
  if (teams > 0) {
    plan->blocks = std::min(plan->blocks, teams * plan->team);
  } else {
    *plan = plan_forward(problem, facts, Strategy::kSplit);
  }
  return cudaSuccess;
}

Table table_float();
Table table_double();
Table table_half();
Table table_bfloat16();

// Memory that is 0 between passes, and that no other work on the GPU uses at the same time.
struct Zeros {
  unsigned* counters;
  uint64_t* packets;
};

// Returns the zeros of stream `number` of the current device, which last as long as the process: 2 counters for each of
// kStreams streams, and kStreamPackets packets for each of the first kPacketStreams streams.
constexpr int kStreams = 256, kPacketStreams = 16, kStreamPackets = 4096;
cudaError_t zeros_of_stream(int number, Zeros* zeros);

}  // namespace cuda
}  // namespace mlloss
