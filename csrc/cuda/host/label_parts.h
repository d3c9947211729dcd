// The steps of a forward pass over a part of the labels, and over the statistics of all parts.
#pragma once

#include "passes.h"

namespace mlloss {
namespace cuda {

// Calls f(to, spare, work) with the launch and the memory of a split pass over the part.
template <class F>
void launch_part(const LossKernels& kernels, const Call& call, const Tensor& logits, F f) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  if (nothing_to_do(call)) return;
  const LaunchPlan plan = plan_forward(problem_of(call, false), facts_of(device), Strategy::kSplit);
  const Launch to{plan, current_stream(device)};
  WorkspaceSizes sizes = kernels.workspace_of(to, call);
  sizes.partial_sums = 0;
  const Memory memory(sizes, coefficient_bytes(kernels, call), logits, device, to.stream);
  check(f(to, memory.coefficients(), memory.work()));
}

inline void run_merge(const LossKernels& kernels, const LabelParts& parts, double* out, const Tensor& statistics) {
  const int device = device_of(statistics);
  const DeviceScope scope(device);
  check(kernels.merge(current_stream(device), parts, out));
}

inline void run_finalize(const Table& table, const LossKernels& kernels, Call call, const LabelParts& parts,
                         const ForwardOutputs& out, const Tensor& statistics) {
  const int device = device_of(statistics);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  if (crosses_rows(call)) call.sample_weight = nullptr;  // already in the statistics
  if (parts.groups == 0) {
    if (out.total) check(table.sum_total(stream, call, nullptr, 0, out.total));
    return;
  }
  const Scratch values(statistics, {out.total ? parts.groups * 8 : 0});
  double* const of_groups = static_cast<double*>(values.get(0));
  check(kernels.finalize(stream, call, parts, out, of_groups));
  if (out.total) check(table.sum_total(stream, call, of_groups, parts.groups, out.total));
}

}  // namespace cuda
}  // namespace mlloss
