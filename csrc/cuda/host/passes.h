// A forward and a backward pass on the current stream: plan, workspace, launches.
#pragma once

#include <atomic>

#include "../device/device_call.h"
#include "lookup.h"
#include "workspace.h"

namespace mlloss {
namespace cuda {

// The strategy that tests and benchmarks request.
inline std::atomic<int>& wanted_strategy() {
  static std::atomic<int> wanted{static_cast<int>(Strategy::kAutomatic)};
  return wanted;
}

// The number of multiprocessors that teams of blocks leave to kernels of other streams.
inline std::atomic<int>& reserved_multiprocessors() {
  static std::atomic<int> reserved{0};
  return reserved;
}

inline std::atomic<int>& last_strategy() {
  static std::atomic<int> last{static_cast<int>(Strategy::kAutomatic)};
  return last;
}

inline void check_supported(const Call& call, const LossKernels& kernels) {
  STD_TORCH_CHECK(call.labels <= kMaxLabels, "mlloss_cuda: the CUDA engine supports at most 2^31 - 1024 labels");
  const bool rows = call.grouping == (kernels.element_wise ? Grouping::kElement : Grouping::kSamples);
  STD_TORCH_CHECK(kernels.element_wise || call.rows <= kMaxLabels,
                  "mlloss_cuda: the CUDA engine supports at most 2^31 - 1024 rows of a loss that compares labels");
  STD_TORCH_CHECK(rows || kernels.across_rows, "mlloss_cuda: the loss does not support this grouping");
}

// A row without labels still has a value.
inline bool nothing_to_do(const Call& call) { return group_count(call) == 0; }

// Returns false, without any effect, if the driver refuses a team's cooperative launch: a green context may have fewer
// multiprocessors than the device.
inline bool launch_forward(const LossKernels& kernels, const Launch& to, const Call& call, ForwardOutputs out,
                           const Tensor& logits, int device) {
  WorkspaceSizes sizes = kernels.workspace_of(to, call);
  if (!out.total) sizes.partial_sums = 0;
  const Memory memory(sizes, out.coefficients ? 0 : coefficient_bytes(kernels, call), logits, device, to.stream);
  if (!out.coefficients) out.coefficients = memory.coefficients();
  const cudaError_t error = kernels.forward(to, call, out, memory.work());
  const bool refused = error == cudaErrorCooperativeLaunchTooLarge || error == cudaErrorNotSupported;
  if (refused && to.plan.team > 1) {
    cudaGetLastError();  // clears the error
    return false;
  }
  check(error);
  return true;
}

// The plan of this thread's last forward pass. A training loop repeats it, and planning takes a microsecond.
struct LastPlan {
  const LossKernels* kernels = nullptr;
  int device = -1, reserved = 0;
  Strategy wanted = Strategy::kAutomatic;
  FastPath path = FastPath::kNone;
  Problem problem{};
  LaunchPlan plan{};
  bool refused = false;  // the driver has refused another plan on `stream`
  cudaStream_t stream = nullptr;
};

inline LastPlan& plan_of(const LossKernels& kernels, const Call& call, const ForwardOutputs& out,
                         const DeviceFacts& facts, int device, cudaStream_t stream) {
  static thread_local LastPlan last;
  const Strategy wanted = static_cast<Strategy>(wanted_strategy().load());
  const FastPath path = team_path_of(call, out.gradient);
  const Problem problem = problem_of(call, out.gradient != nullptr);
  const bool same = last.kernels == &kernels && last.device == device && last.reserved == facts.reserved &&
                    last.wanted == wanted && last.path == path && last.problem == problem &&
                    !(last.refused && last.stream != stream);
  if (!same) {
    last = {&kernels, device, facts.reserved, wanted, path, problem, {}};
    const cudaError_t error = plan_that_runs(kernels, call, out, facts, wanted, &last.plan);
    if (error != cudaSuccess) last.kernels = nullptr;
    check(error);
  }
  return last;
}

inline void run_forward(const Table& table, const LossKernels& kernels, const Call& call, const ForwardOutputs& out,
                        const Tensor& logits) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  if (nothing_to_do(call)) {
    if (out.total) check(table.sum_total(stream, call, nullptr, 0, out.total));
    return;
  }
  DeviceFacts facts = facts_of(device);
  facts.reserved = reserved_multiprocessors();
  LastPlan& last = plan_of(kernels, call, out, facts, device, stream);
  last_strategy() = static_cast<int>(last.plan.strategy);
  const LaunchPlan down_rows = plan_down_rows(problem_of(call, out.gradient != nullptr), facts,
                                              static_cast<int>(chunk_width(call.logits_dtype)));
  if (launch_forward(kernels, Launch{last.plan, stream, &down_rows}, call, out, logits, device)) return;
  last.plan = plan_forward(problem_of(call, out.gradient != nullptr), facts, Strategy::kSplit);
  last.refused = true;
  last.stream = stream;
  last_strategy() = static_cast<int>(last.plan.strategy);
  launch_forward(kernels, Launch{last.plan, stream, &down_rows}, call, out, logits, device);
}

inline void run_tiles(const Table& table, const LossKernels& kernels, const Call& call, const BackwardOutputs& out,
                      const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_backward(problem_of(call, true), facts);
  const int64_t bytes = call.rows * plan.tiles * 8;
  const Scratch scratch(logits, {out.row_gradient ? bytes : 0, out.scale_gradient ? bytes : 0});
  double* rows = static_cast<double*>(scratch.get(0));
  double* scales = static_cast<double*>(scratch.get(1));
  // A call without labels has no grad_output to read, and its sums over no tiles are 0.
  const int64_t tiles = call.labels > 0 ? plan.tiles : 0;
  if (tiles > 0) check(kernels.backward(Launch{plan, stream}, call, out, rows, scales));
  if (out.row_gradient) check(table.sum_each(stream, rows, call.rows, tiles, tiles, 1, out.row_gradient));
  if (out.scale_gradient) check(table.sum_each(stream, scales, call.rows, tiles, tiles, 1, out.scale_gradient));
}

inline void run_labels(const Table& table, const LossKernels& kernels, const Call& call, const BackwardOutputs& out,
                       const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_down_rows(problem_of(call, true), facts, 1);
  const Scratch scratch(logits, {plan.tiles * call.labels * 8});
  double* sums = static_cast<double*>(scratch.get(0));
  check(kernels.label_gradient(Launch{plan, stream}, call, out, sums));
  check(table.sum_each(stream, sums, call.labels, 1, plan.tiles, call.labels, out.label_gradient));
}

inline void run_backward(const Table& table, const LossKernels& kernels, const Call& call, const BackwardOutputs& out,
                         const Tensor& logits) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  // This pass comes first, because an in-place gradient overwrites the logits. Without rows it still writes zeros.
  if (out.label_gradient) run_labels(table, kernels, call, out, logits, facts_of(device), stream);
  if (out.gradient || out.row_gradient || out.scale_gradient) {
    run_tiles(table, kernels, call, out, logits, facts_of(device), stream);
  }
}

}  // namespace cuda
}  // namespace mlloss
