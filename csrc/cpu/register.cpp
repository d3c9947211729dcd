// Registers the CPU engine as torch ops.
#include "label_parts.h"

namespace mlloss {
namespace cpu {

namespace {

struct CpuEngine {
  static LossCounts counts_of(const std::string& loss, const Tensor& logits) {
    const LossKernels kernels = program_of(loss, logits).kernels;
    return {kernels.element_wise, kernels.statistics - kernels.second_pass_sums, kernels.second_pass_sums,
            kernels.coefficients};
  }
  static void forward(const std::string& loss, const Call& call, const ForwardOutputs& out, const Tensor& logits) {
    run_forward(program_of(loss, logits), call, out);
  }
  static void backward(const std::string& loss, const Call& call, const BackwardOutputs& out, const Tensor& logits) {
    run_backward(program_of(loss, logits), call, out);
  }
  static void statistics(const std::string& loss, const Call& call, double* out, const Tensor& logits) {
    run_statistics(program_of(loss, logits), call, out);
  }
  static void second_pass(const std::string& loss, const Call& call, const double* statistics, double* out,
                          const Tensor& logits) {
    run_second_pass(program_of(loss, logits), call, statistics, out);
  }
  static void merge(const std::string& loss, const LabelParts& parts, double* out, const Tensor&) {
    run_merge(program_of(loss, true), parts, out);
  }
  static void finalize(const std::string& loss, const Call& call, const LabelParts& parts, const ForwardOutputs& out,
                       const Tensor&) {
    run_finalize(program_of(loss, call.logits_dtype == DType::kDouble), call, parts, out);
  }
  static void scale(Tensor& gradient, const Tensor& grad_output) {
    const bool wide = gradient.scalar_type() == ScalarType::Double;
    const double factor = wide ? *static_cast<const double*>(grad_output.const_data_ptr())
                               : static_cast<double>(*static_cast<const float*>(grad_output.const_data_ptr()));
    if (factor == 1.0) return;
    const auto kernel = table().scale;
    const DType dtype = dtype_of(gradient);
    void* data = gradient.mutable_data_ptr();
    torch::stable::parallel_for(0, gradient.numel(), kElementsWorthAThread,
                                [&](int64_t begin, int64_t end) { kernel(dtype, data, factor, begin, end); });
  }
};

}  // namespace
}  // namespace cpu
}  // namespace mlloss

// Selects the instruction set `isa` (0 baseline, 1 x86-64-v3, 2 x86-64-v4) for tests and `info`, if it is built and
// this machine has it; -1 changes nothing. Returns the set in use.
extern "C" __attribute__((visibility("default"))) int mlloss_cpu_isa(int isa) {
  if (mlloss::cpu::can_run(isa)) mlloss::cpu::active_isa() = isa;
  return mlloss::cpu::active_isa();
}

STABLE_TORCH_LIBRARY_IMPL(mlloss_cuda, CPU, m) { mlloss::Ops<mlloss::cpu::CpuEngine>::implement(m); }
