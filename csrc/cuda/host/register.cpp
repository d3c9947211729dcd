// Registers the CUDA engine as torch ops. Nothing here waits for the GPU, so every call can be captured in a CUDA
// graph.
//
// The emulator's build of this file registers the same ops for CPU tensors in a namespace of its own.
#include "label_parts.h"

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
    const LossKernels& kernels = kernels_of(loss, table_for(dtype_of(logits)));
    return {kernels.element_wise, kernels.statistics, kernels.second_pass_sums, kernels.coefficients};
  }
  static void statistics(const std::string& loss, const Call& call, double* out, const Tensor& logits) {
    const Table table = table_for(call.logits_dtype);
    const LossKernels& kernels = kernels_of(loss, table);
    launch_part(kernels, call, logits, [&](const Launch& to, void* spare, const Workspace& work) {
      return kernels.statistics_of(to, call, spare, work, out);
    });
  }
  static void second_pass(const std::string& loss, const Call& call, const double* known, double* out,
                          const Tensor& logits) {
    const Table table = table_for(call.logits_dtype);
    const LossKernels& kernels = kernels_of(loss, table);
    if (!kernels.second_pass_of) return;
    launch_part(kernels, call, logits, [&](const Launch& to, void* spare, const Workspace& work) {
      return kernels.second_pass_of(to, call, known, spare, work, out);
    });
  }
  static void merge(const std::string& loss, const LabelParts& parts, double* out, const Tensor& statistics) {
    run_merge(kernels_of(loss, table_for(DType::kDouble)), parts, out, statistics);
  }
  static void finalize(const std::string& loss, const Call& call, const LabelParts& parts, const ForwardOutputs& out,
                       const Tensor& statistics) {
    const Table table = table_for(call.logits_dtype);
    run_finalize(table, kernels_of(loss, table), call, parts, out, statistics);
  }
  static void forward(const std::string& loss, const Call& call, const ForwardOutputs& out, const Tensor& logits) {
    const Table table = table_for(call.logits_dtype);
    run_forward(table, kernels_of(loss, table), call, out, logits);
  }
  static void backward(const std::string& loss, const Call& call, const BackwardOutputs& out, const Tensor& logits) {
    const Table table = table_for(call.logits_dtype);
    run_backward(table, kernels_of(loss, table), call, out, logits);
  }
  static void scale(Tensor& gradient, const Tensor& grad_output) {
    const int device = device_of(gradient);
    const DeviceScope scope(device);
    check(table_for(dtype_of(gradient))
              .scale(current_stream(device), facts_of(device), gradient.mutable_data_ptr(), gradient.numel(),
                     grad_output.const_data_ptr()));
  }
};

}  // namespace
}  // namespace cuda
}  // namespace mlloss

// Selects the strategy of group losses for tests and benchmarks: a number of core/launch_types.h, of which 0 leaves the
// choice to the planner, or -1, which changes nothing. It is used if it can run. Returns the selected strategy.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_strategy(int strategy) {
  if (strategy >= 0) mlloss::cuda::wanted_strategy() = strategy;
  return mlloss::cuda::wanted_strategy();
}

// Sets how many multiprocessors teams of blocks leave to kernels of other streams, unless it is -1. Returns the number.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_reserve(int multiprocessors) {
  if (multiprocessors >= 0) mlloss::cuda::reserved_multiprocessors() = multiprocessors;
  return mlloss::cuda::reserved_multiprocessors();
}

// Returns the strategy of this process's last forward pass, for tests.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_last_strategy() {
  return mlloss::cuda::last_strategy();
}

#define MLLOSS_IMPLEMENT(name, key) \
  STABLE_TORCH_LIBRARY_IMPL(name, key, m) { mlloss::Ops<mlloss::cuda::CudaEngine>::implement(m); }
MLLOSS_IMPLEMENT(MLLOSS_NAMESPACE, MLLOSS_DISPATCH_KEY)
