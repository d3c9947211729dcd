// The CUDA engine as torch ops: device guard, current stream, plan, workspace, launches. Nothing here
// waits for the GPU, so every call can be captured in a CUDA graph.
//
// The emulator's build of this file registers the same ops for CPU tensors in a namespace of its own.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <atomic>
#include <mutex>

#include "../losses/registry.h"
#include "../ops.h"
#include "kernels.h"

#ifndef MLLOSS_NAMESPACE
#define MLLOSS_NAMESPACE mlloss_cuda
#endif
#ifndef MLLOSS_DISPATCH_KEY
#define MLLOSS_DISPATCH_KEY CUDA
#endif

#ifndef CUEMU
// Defined by libtorch_cuda; weak, so that this library loads on a torch without CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace mlloss {
namespace {

using cuda::Kernels;
using cuda::Launch;
using cuda::Table;

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "mlloss_cuda: CUDA error: ", cudaGetErrorString(error));
}

#ifdef CUEMU
struct DeviceScope {
  explicit DeviceScope(int) {}
};
int device_of(const Tensor&) { return 0; }
cudaStream_t current_stream(int) { return nullptr; }
#else
using DeviceScope = torch::stable::accelerator::DeviceGuard;
int device_of(const Tensor& tensor) { return tensor.get_device_index(); }
cudaStream_t current_stream(int device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "mlloss_cuda: this torch has no CUDA");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

DeviceFacts ask_device(int device) {
  DeviceFacts facts{};
  facts.capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  facts.sm_count = attribute(cudaDevAttrMultiProcessorCount, device);
  facts.threads_per_sm = attribute(cudaDevAttrMaxThreadsPerMultiProcessor, device);
  facts.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  facts.l2_bytes = attribute(cudaDevAttrL2CacheSize, device);
  return facts;
}

const DeviceFacts& facts_of(int device) {
  constexpr int kMostDevices = 128;
  static std::array<DeviceFacts, kMostDevices> facts;
  static std::array<std::once_flag, kMostDevices> asked;
  STD_TORCH_CHECK(device >= 0 && device < kMostDevices, "mlloss_cuda: no such device");
  const size_t i = static_cast<size_t>(device);
  std::call_once(asked[i], [&] { facts[i] = ask_device(device); });
  return facts[i];
}

// What tests and benchmarks have asked for.
std::atomic<int>& wanted_strategy() {
  static std::atomic<int> wanted{static_cast<int>(Strategy::kAutomatic)};
  return wanted;
}

#define MLLOSS_NAME(name, Functor) #name,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME)};
#undef MLLOSS_NAME

Table table_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat:
      return cuda::table_float();
    case DType::kHalf:
      return cuda::table_half();
    case DType::kBFloat16:
      return cuda::table_bfloat16();
    default:
      return cuda::table_double();
  }
}

const Kernels& kernels_of(const std::string& loss, const Table& table) {
  for (int i = 0; i < table.count; ++i) {
    if (loss == kLossNames[i]) return table.losses[i];
  }
  STD_TORCH_CHECK(false, "mlloss_cuda: this build has no loss named ", loss);
}

// Numbers for a launch to leave behind; freed to torch's allocator in stream order.
class Workspace {
 public:
  Workspace(const Tensor& like, int64_t count, bool wanted)
      : tensor_(new_tensor(like, {wanted ? count : 0}, ScalarType::Double)), wanted_(wanted) {}
  double* get() { return wanted_ ? static_cast<double*>(tensor_.mutable_data_ptr()) : nullptr; }

 private:
  Tensor tensor_;
  bool wanted_;
};

Problem problem_of(const Call& call, bool element_wise, bool gradient) {
  return {call.rows, call.labels, call.logits_dtype, element_wise, gradient, call.logits_label_stride == 1};
}

void check_supported(const Call& call, const Kernels& kernels) {
  STD_TORCH_CHECK(call.labels <= kMaxLabels, "mlloss_cuda: more labels than the CUDA engine counts");
  const Grouping expected = kernels.element_wise ? Grouping::kElement : Grouping::kSamples;
  STD_TORCH_CHECK(call.grouping == expected, "mlloss_cuda: the CUDA engine groups by sample only");
}

// Group losses have a value even for a row without labels.
bool nothing_to_do(const Call& call, const Kernels& kernels) {
  return call.rows == 0 || (call.labels == 0 && kernels.element_wise);
}

void run_forward(const Table& table, const Kernels& kernels, const Call& call, const ForwardOutputs& out,
                 const Tensor& logits) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  const bool nothing = nothing_to_do(call, kernels);
  const LaunchPlan plan = plan_forward(problem_of(call, kernels.element_wise, out.gradient != nullptr),
                                       facts_of(device), static_cast<Strategy>(wanted_strategy().load()));
  const int64_t parts = nothing ? 0 : plan.blocks;
  Workspace partials(logits, parts, out.total != nullptr);
  if (!nothing) check(kernels.forward(Launch{plan, stream}, call, out, partials.get()));
  if (out.total) check(table.sum_total(stream, call, partials.get(), parts, out.total));
}

void run_tiles(const Table& table, const Kernels& kernels, const Call& call, const BackwardOutputs& out,
               const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_backward(problem_of(call, kernels.element_wise, true), facts);
  Workspace rows(logits, call.rows * plan.tiles, out.row_gradient != nullptr);
  Workspace scales(logits, call.rows * plan.tiles, out.scale_gradient != nullptr);
  // Without labels there is no grad_output to look at: sums of no tiles are zeros.
  const int64_t tiles = call.labels > 0 ? plan.tiles : 0;
  if (tiles > 0) check(kernels.backward(Launch{plan, stream}, call, out, rows.get(), scales.get()));
  if (out.row_gradient) check(table.sum_each(stream, rows.get(), call.rows, tiles, tiles, 1, out.row_gradient));
  if (out.scale_gradient) check(table.sum_each(stream, scales.get(), call.rows, tiles, tiles, 1, out.scale_gradient));
}

void run_labels(const Table& table, const Kernels& kernels, const Call& call, const BackwardOutputs& out,
                const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_label_gradient(problem_of(call, kernels.element_wise, true), facts);
  Workspace sums(logits, plan.tiles * call.labels, true);
  check(kernels.label_gradient(Launch{plan, stream}, call, out, sums.get()));
  check(table.sum_each(stream, sums.get(), call.labels, 1, plan.tiles, call.labels, out.label_gradient));
}

void run_backward(const Table& table, const Kernels& kernels, const Call& call, const BackwardOutputs& out,
                  const Tensor& logits) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  // First: in place, the next pass overwrites the logits. Without rows it still writes zeros.
  if (out.label_gradient) run_labels(table, kernels, call, out, logits, facts_of(device), stream);
  if (out.gradient || out.row_gradient || out.scale_gradient) {
    run_tiles(table, kernels, call, out, logits, facts_of(device), stream);
  }
}

struct CudaEngine {
  static LossShape shape_of(const std::string& loss, const Tensor& logits) {
    const Kernels& kernels = kernels_of(loss, table_of(dtype_of(logits)));
    return {kernels.element_wise, kernels.coefficients};
  }
  static void forward(const std::string& loss, const Call& call, const ForwardOutputs& out, const Tensor& logits) {
    const Table table = table_of(call.logits_dtype);
    run_forward(table, kernels_of(loss, table), call, out, logits);
  }
  static void backward(const std::string& loss, const Call& call, const BackwardOutputs& out, const Tensor& logits) {
    const Table table = table_of(call.logits_dtype);
    run_backward(table, kernels_of(loss, table), call, out, logits);
  }
  static void scale(Tensor& gradient, const Tensor& grad_output) {
    const int device = device_of(gradient);
    const DeviceScope scope(device);
    check(table_of(dtype_of(gradient))
              .scale(current_stream(device), facts_of(device), gradient.mutable_data_ptr(), gradient.numel(),
                     grad_output.const_data_ptr()));
  }
};

}  // namespace
}  // namespace mlloss

// For tests and benchmarks: group losses take this strategy (a number of core/launch_plan.h, 0 leaves
// the choice to the planner) wherever it can run. Returns the one in use; -1 asks only.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_strategy(int strategy) {
  if (strategy >= 0) mlloss::wanted_strategy() = strategy;
  return mlloss::wanted_strategy();
}

#define MLLOSS_IMPLEMENT(name, key) \
  STABLE_TORCH_LIBRARY_IMPL(name, key, m) { mlloss::Ops<mlloss::CudaEngine>::implement(m); }
MLLOSS_IMPLEMENT(MLLOSS_NAMESPACE, MLLOSS_DISPATCH_KEY)
