// The engine's passes share these functions, which find the kernels, the device and the stream, plan a forward pass,
// and launch it.
#pragma once

#include <atomic>
#include <string>

#include "../../losses/compounds.h"
#include "../../losses/registry.h"
#include "../device/device_call.h"
#include "workspace.h"

namespace mlloss {
namespace cuda {

#define MLLOSS_NAME(name, Functor) #name,
#define MLLOSS_NAMES(names, Functor) names,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME) MLLOSS_FOR_EACH_COMPOUND(MLLOSS_NAMES)};
#undef MLLOSS_NAMES
#undef MLLOSS_NAME

inline Table table_for(DType dtype) {
  switch (dtype) {
    case DType::kFloat:
      return table_float();
    case DType::kHalf:
      return table_half();
    case DType::kBFloat16:
      return table_bfloat16();
    default:
      return table_double();
  }
}

inline const LossKernels& kernels_of(const std::string& loss, DType dtype) {
  const Table table = table_for(dtype);
  for (int i = 0; i < table.count; ++i) {
    if (loss == kLossNames[i]) return table.losses[i];
  }
  STD_TORCH_CHECK(false, "mlloss_cuda: this build has no kernels for the loss ", loss);
}

// The strategy that tests and benchmarks request.
inline std::atomic<int> wanted_strategy{static_cast<int>(Strategy::kAutomatic)};

// The number of multiprocessors that teams of blocks leave to kernels of other streams.
inline std::atomic<int> reserved_multiprocessors{0};

// The strategy of this process's last forward pass.
inline std::atomic<int> last_strategy{static_cast<int>(Strategy::kAutomatic)};

// The device of a tensor, which is the current one during a pass, and its current stream.
struct Here {
  const int device;
  const DeviceScope scope;
  const cudaStream_t stream;

  explicit Here(const Tensor& tensor) : device(device_of(tensor)), scope(device), stream(current_stream(device)) {}
};

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
                         const DeviceFacts& facts, const Here& here) {
  static thread_local LastPlan last;
  const Strategy wanted = static_cast<Strategy>(wanted_strategy.load());
  const FastPath path = team_path_of(call, out.gradient);
  const Problem problem = problem_of(call, out.gradient != nullptr);
  const bool same = last.kernels == &kernels && last.device == here.device && last.reserved == facts.reserved &&
                    last.wanted == wanted && last.path == path && last.problem == problem &&
                    !(last.refused && last.stream != here.stream);
  if (!same) {
    last = {&kernels, here.device, facts.reserved, wanted, path, problem, {}};
    const cudaError_t error = plan_that_runs(kernels, call, out, facts, wanted, &last.plan);
    if (error != cudaSuccess) last.kernels = nullptr;
    check(error);
  }
  return last;
}

// Calls f(to, work) with the launch and the memory of a split pass over a part of the labels.
template <class F>
void launch_part(const LossKernels& kernels, const Call& call, const Tensor& logits, F f) {
  check_supported(call, kernels);
  const Here here(logits);
  if (nothing_to_do(call)) return;
  const LaunchPlan plan = plan_forward(problem_of(call, false), facts_of(here.device), Strategy::kSplit);
  const Launch to{plan, here.stream};
  WorkspaceSizes sizes = kernels.workspace_of(to, call);
  sizes.partial_sums = 0;
  const Memory memory(sizes, 0, logits, here.device, here.stream);
  check(f(to, memory.work()));
}

}  // namespace cuda
}  // namespace mlloss
