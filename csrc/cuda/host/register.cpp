// Registers the CUDA engine as torch ops. Nothing here waits for the GPU, so every call can be captured in a CUDA
// graph.
//
// The emulator's build of this file registers the same ops for CPU tensors in a namespace of its own.
#include "passes.h"

#ifndef MLLOSS_NAMESPACE
#define MLLOSS_NAMESPACE mlloss_cuda
#endif
#ifndef MLLOSS_DISPATCH_KEY
#define MLLOSS_DISPATCH_KEY CUDA
#endif

namespace mlloss {
namespace cuda {
namespace {

struct CudaEngine {
  static LossCounts counts_of(const std::string& loss, const Tensor& logits) {
    const LossKernels& kernels = kernels_of(loss, dtype_of(logits));
    return {kernels.element_wise, kernels.statistics, kernels.second_pass_sums, kernels.coefficients};
  }

  static void forward(const std::string& loss, const Call& call, const ForwardOutputs& out, const Tensor& logits) {
    const LossKernels& kernels = kernels_of(loss, call.logits_dtype);
    check_supported(call, kernels);
    const Here here(logits);
    if (nothing_to_do(call)) {
      if (out.total) check(table_for(call.logits_dtype).empty_total(here.stream, call, out.total));
      return;
    }
    DeviceFacts facts = facts_of(here.device);
    facts.reserved = reserved_multiprocessors;
    LastPlan& last = plan_of(kernels, call, out, facts, here);
    last_strategy = static_cast<int>(last.plan.strategy);
    const LaunchPlan down_rows = plan_down_rows(problem_of(call, out.gradient != nullptr), facts,
                                                static_cast<int>(chunk_width(call.logits_dtype)));
    const Launch to{last.plan, here.stream, &down_rows};
    if (launch_forward(kernels, to, call, out, logits, here.device)) return;
    last.plan = plan_forward(problem_of(call, out.gradient != nullptr), facts, Strategy::kSplit);
    last.refused = true;
    last.stream = here.stream;
    last_strategy = static_cast<int>(last.plan.strategy);
    launch_forward(kernels, to, call, out, logits, here.device);
  }

  static void backward(const std::string& loss, const Call& call, const BackwardOutputs& out, const Tensor& logits) {
    const LossKernels& kernels = kernels_of(loss, call.logits_dtype);
    check_supported(call, kernels);
    const Here here(logits);
    // This pass comes first, because an in-place gradient overwrites the logits. Without rows it still writes zeros.
    if (out.label_gradient) sum_down_rows(kernels, call, out, logits, here);
    if (out.gradient || out.row_gradient || out.scale_gradient) form_gradient(kernels, call, out, logits, here);
  }

  static void scale(Tensor& gradient, const Tensor& grad_output) {
    const Here here(gradient);
    check(table_for(dtype_of(gradient))
              .scale(here.stream, facts_of(here.device), gradient.mutable_data_ptr(), gradient.numel(),
                     grad_output.const_data_ptr()));
  }

  // The steps of a forward pass over a part of the labels, and over the statistics of all parts.
  static void statistics(const std::string& loss, const Call& call, double* out, const Tensor& logits) {
    const LossKernels& kernels = kernels_of(loss, call.logits_dtype);
    launch_part(kernels, call, logits, [&](const Launch& to, Workspace work) {
      work.merged = out;
      return kernels.forward(to, call, ForwardOutputs{}, work);
    });
  }
  static void second_pass(const std::string& loss, const Call& call, const double* known, double* out,
                          const Tensor& logits) {
    const LossKernels& kernels = kernels_of(loss, call.logits_dtype);
    if (!kernels.second_pass_of) return;
    launch_part(kernels, call, logits, [&](const Launch& to, const Workspace& work) {
      return kernels.second_pass_of(to, call, known, work, out);
    });
  }
  static void merge(const std::string& loss, const LabelParts& parts, double* out, const Tensor& statistics) {
    const Here here(statistics);
    check(kernels_of(loss, DType::kDouble).merge(here.stream, parts, out));
  }
  static void finalize(const std::string& loss, const Call& call, const LabelParts& parts, const ForwardOutputs& out,
                       const Tensor& statistics) {
    const Here here(statistics);
    const Memory memory({out.total ? std::max<int64_t>(1, parts.groups) : 0, 0, 1, 0}, 0, statistics, here.device,
                        here.stream);
    check(kernels_of(loss, call.logits_dtype).finalize(here.stream, call, parts, out, memory.work()));
  }

 private:
  static void form_gradient(const LossKernels& kernels, const Call& call, const BackwardOutputs& out,
                            const Tensor& logits, const Here& here) {
    const LaunchPlan plan = plan_backward(problem_of(call, true), facts_of(here.device));
    const int64_t bytes = call.rows * plan.tiles * 8;
    const Scratch scratch(logits, {out.row_gradient ? bytes : 0, out.scale_gradient ? bytes : 0});
    double* rows = static_cast<double*>(scratch.get(0));
    double* scales = static_cast<double*>(scratch.get(1));
    // A call without labels has no grad_output to read, and its sums over no tiles are 0.
    const int64_t tiles = call.labels > 0 ? plan.tiles : 0;
    if (tiles > 0) check(kernels.backward(Launch{plan, here.stream}, call, out, rows, scales));
    const auto sum = table_for(call.logits_dtype).sum_each;
    if (out.row_gradient) check(sum(here.stream, rows, call.rows, tiles, tiles, 1, out.row_gradient));
    if (out.scale_gradient) check(sum(here.stream, scales, call.rows, tiles, tiles, 1, out.scale_gradient));
  }

  static void sum_down_rows(const LossKernels& kernels, const Call& call, const BackwardOutputs& out,
                            const Tensor& logits, const Here& here) {
    const LaunchPlan plan = plan_down_rows(problem_of(call, true), facts_of(here.device), 1);
    const Scratch scratch(logits, {plan.tiles * call.labels * 8});
    double* sums = static_cast<double*>(scratch.get(0));
    check(kernels.label_gradient(Launch{plan, here.stream}, call, out, sums));
    const auto sum = table_for(call.logits_dtype).sum_each;
    check(sum(here.stream, sums, call.labels, 1, plan.tiles, call.labels, out.label_gradient));
  }
};

}  // namespace
}  // namespace cuda
}  // namespace mlloss

// Selects the strategy of group losses for tests and benchmarks: a number of core/launch_types.h, of which 0 leaves the
// choice to the planner, or -1, which changes nothing. It is used if it can run. Returns the selected strategy.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_strategy(int strategy) {
  if (strategy >= 0) mlloss::cuda::wanted_strategy = strategy;
  return mlloss::cuda::wanted_strategy;
}

// Sets how many multiprocessors teams of blocks leave to kernels of other streams, unless it is -1. Returns the number.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_reserve(int multiprocessors) {
  if (multiprocessors >= 0) mlloss::cuda::reserved_multiprocessors = multiprocessors;
  return mlloss::cuda::reserved_multiprocessors;
}

// Returns the strategy of this process's last forward pass, for tests.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_last_strategy() {
  return mlloss::cuda::last_strategy;
}

#define MLLOSS_IMPLEMENT(name, key) \
  STABLE_TORCH_LIBRARY_IMPL(name, key, m) { mlloss::Ops<mlloss::cuda::CudaEngine>::implement(m); }
MLLOSS_IMPLEMENT(MLLOSS_NAMESPACE, MLLOSS_DISPATCH_KEY)
