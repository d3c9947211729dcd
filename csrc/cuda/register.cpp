// The CUDA engine as torch ops: device guard, current stream, plan, workspace, launches. Nothing here
// waits for the GPU, so every call can be captured in a CUDA graph.
//
// The emulator's build of this file registers the same ops for CPU tensors in a namespace of its own.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <atomic>
#include <initializer_list>
#include <map>
#include <mutex>
#include <utility>

#include "../losses/compounds.h"
#include "../losses/registry.h"
#include "../ops.h"
#include "device_call.h"
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
using cuda::plan_that_runs;
using cuda::problem_of;
using cuda::Table;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // takes it away: whoever asks next would be told of it again
  STD_TORCH_CHECK(false, "mlloss_cuda: CUDA error: ", cudaGetErrorString(error));
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
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
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

std::atomic<int>& last_strategy() {
  static std::atomic<int> last{static_cast<int>(Strategy::kAutomatic)};
  return last;
}

#define MLLOSS_NAME(name, Functor) #name,
#define MLLOSS_NAMES(names, Functor) names,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME) MLLOSS_FOR_EACH_COMPOUND(MLLOSS_NAMES)};
#undef MLLOSS_NAMES
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

// Memory for the launches of one pass, from one allocation; freed to torch's allocator in stream order.
class Scratch {
 public:
  // Bytes of each piece, none of which need be there.
  Scratch(const Tensor& like, std::initializer_list<int64_t> pieces) {
    int64_t units = 0;
    for (const int64_t bytes : pieces) {
      starts_.push_back(units);
      units += (bytes + kUnit - 1) / kUnit * (kUnit / 8);
      sizes_.push_back(bytes);
    }
    if (units == 0) return;
    tensor_.emplace(new_tensor(like, {units}, ScalarType::Double));
    memory_ = static_cast<double*>(tensor_->mutable_data_ptr());
  }

  // Null for a piece of no bytes.
  void* get(size_t piece) const { return sizes_[piece] > 0 ? memory_ + starts_[piece] : nullptr; }

 private:
  static constexpr int64_t kUnit = 16;  // pieces begin on as many bytes
  std::vector<int64_t> starts_, sizes_;
  OptionalTensor tensor_;
  double* memory_ = nullptr;
};

// A counter that no other work on the GPU uses at the same time: that of the stream, whose kernels run
// one after another. Null while a graph is captured, which may be replayed on any stream, or if there are
// too many streams.
unsigned* counter_of(int device, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status));
  if (status != cudaStreamCaptureStatusNone) return nullptr;
  static std::mutex mutex;
  static std::map<std::pair<int, cudaStream_t>, unsigned*> known;
  static std::map<int, int> used;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({device, stream});
  if (found != known.end()) return found->second;
  if (used[device] == cuda::kStreamCounters) return nullptr;
  unsigned* first = nullptr;
  check(cuda::stream_counters(&first));
  return known[{device, stream}] = first + used[device]++;
}

void check_supported(const Call& call, const Kernels& kernels) {
  STD_TORCH_CHECK(call.labels <= kMaxLabels, "mlloss_cuda: more labels than the CUDA engine counts");
  const bool rows = call.grouping == (kernels.element_wise ? Grouping::kElement : Grouping::kSamples);
  STD_TORCH_CHECK(rows || kernels.across_rows, "mlloss_cuda: a grouping that this loss has not");
}

// Group losses have a value even for a row without labels.
bool nothing_to_do(const Call& call) { return group_count(call) == 0; }

// A workspace for as long as its launches are being made, and coefficients that nobody keeps.
class Memory {
 public:
  Memory(const cuda::WorkspaceSizes& sizes, int64_t coefficient_bytes, const Tensor& like, int device,
         cudaStream_t stream)
      : counter_(sizes.counters == 1 ? counter_of(device, stream) : nullptr),
        scratch_(like,
                 {sizes.parts * 8, sizes.statistics_bytes, coefficient_bytes, counter_ ? 0 : sizes.counters * 4}) {
    if (counter_) return;
    counter_ = static_cast<unsigned*>(scratch_.get(3));
    check(cudaMemsetAsync(counter_, 0, static_cast<size_t>(sizes.counters) * 4, stream));
  }

  cuda::Workspace work() const { return {static_cast<double*>(scratch_.get(0)), scratch_.get(1), counter_}; }
  void* coefficients() const { return scratch_.get(2); }

 private:
  unsigned* counter_;
  Scratch scratch_;
};

int64_t coefficient_bytes(const Kernels& kernels, const Call& call) {
  return kernels.element_wise ? 0 : kernels.coefficients * group_count(call) * 8;
}

void launch_forward(const Kernels& kernels, const Launch& to, const Call& call, ForwardOutputs out,
                    const Tensor& logits, int device) {
  cuda::WorkspaceSizes sizes = kernels.workspace_of(to, call);
  if (!out.total) sizes.parts = 0;
  const Memory memory(sizes, out.coefficients ? 0 : coefficient_bytes(kernels, call), logits, device, to.stream);
  if (!out.coefficients) out.coefficients = memory.coefficients();
  check(kernels.forward(to, call, out, memory.work()));
}

void run_forward(const Table& table, const Kernels& kernels, const Call& call, const ForwardOutputs& out,
                 const Tensor& logits) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  if (nothing_to_do(call)) {
    if (out.total) check(table.sum_total(stream, call, nullptr, 0, out.total));
    return;
  }
  const DeviceFacts& facts = facts_of(device);
  const Problem problem = problem_of(call, out.gradient != nullptr, kernels.held);
  LaunchPlan plan{};
  check(plan_that_runs(kernels, problem, facts, static_cast<Strategy>(wanted_strategy().load()), &plan));
  last_strategy() = static_cast<int>(plan.strategy);
  const LaunchPlan down_rows = plan_down_rows(problem, facts, static_cast<int>(chunk_width(call.logits_dtype)));
  launch_forward(kernels, Launch{plan, stream, &down_rows}, call, out, logits, device);
}

void run_tiles(const Table& table, const Kernels& kernels, const Call& call, const BackwardOutputs& out,
               const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_backward(problem_of(call, true, kernels.held), facts);
  const int64_t bytes = call.rows * plan.tiles * 8;
  const Scratch scratch(logits, {out.row_gradient ? bytes : 0, out.scale_gradient ? bytes : 0});
  double* rows = static_cast<double*>(scratch.get(0));
  double* scales = static_cast<double*>(scratch.get(1));
  // Without labels there is no grad_output to look at: sums of no tiles are zeros.
  const int64_t tiles = call.labels > 0 ? plan.tiles : 0;
  if (tiles > 0) check(kernels.backward(Launch{plan, stream}, call, out, rows, scales));
  if (out.row_gradient) check(table.sum_each(stream, rows, call.rows, tiles, tiles, 1, out.row_gradient));
  if (out.scale_gradient) check(table.sum_each(stream, scales, call.rows, tiles, tiles, 1, out.scale_gradient));
}

void run_labels(const Table& table, const Kernels& kernels, const Call& call, const BackwardOutputs& out,
                const Tensor& logits, const DeviceFacts& facts, cudaStream_t stream) {
  const LaunchPlan plan = plan_down_rows(problem_of(call, true, kernels.held), facts, 1);
  const Scratch scratch(logits, {plan.tiles * call.labels * 8});
  double* sums = static_cast<double*>(scratch.get(0));
  check(kernels.label_gradient(Launch{plan, stream}, call, out, sums));
  check(table.sum_each(stream, sums, call.labels, 1, plan.tiles, call.labels, out.label_gradient));
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

// ---- over a part of the labels --------------------------------------------------------------------------

// f(to, spare, work), with what a split pass over the part needs.
template <class F>
void launch_part(const Kernels& kernels, const Call& call, const Tensor& logits, F f) {
  check_supported(call, kernels);
  const int device = device_of(logits);
  const DeviceScope scope(device);
  if (nothing_to_do(call)) return;
  const LaunchPlan plan = plan_forward(problem_of(call, false, kernels.held), facts_of(device), Strategy::kSplit);
  const Launch to{plan, current_stream(device)};
  cuda::WorkspaceSizes sizes = kernels.workspace_of(to, call);
  sizes.parts = 0;
  const Memory memory(sizes, coefficient_bytes(kernels, call), logits, device, to.stream);
  check(f(to, memory.coefficients(), memory.work()));
}

void run_merge(const Kernels& kernels, const Parts& parts, double* out, const Tensor& statistics) {
  const int device = device_of(statistics);
  const DeviceScope scope(device);
  check(kernels.merge(current_stream(device), parts, out));
}

void run_finish(const Table& table, const Kernels& kernels, Call call, const Parts& parts, const ForwardOutputs& out,
                const Tensor& statistics) {
  const int device = device_of(statistics);
  const DeviceScope scope(device);
  const cudaStream_t stream = current_stream(device);
  if (crosses_rows(call)) call.sample_weight = nullptr;  // it is in the statistics
  if (parts.groups == 0) {
    if (out.total) check(table.sum_total(stream, call, nullptr, 0, out.total));
    return;
  }
  const Memory memory({out.total ? parts.groups : 0, 0, 1}, 0, statistics, device, stream);
  check(kernels.finish(stream, call, parts, out, memory.work()));
}

struct CudaEngine {
  static LossShape shape_of(const std::string& loss, const Tensor& logits) {
    const Kernels& kernels = kernels_of(loss, table_of(dtype_of(logits)));
    return {kernels.element_wise, kernels.statistics, kernels.late_sums, kernels.coefficients};
  }
  static void statistics(const std::string& loss, const Call& call, double* out, const Tensor& logits) {
    const Table table = table_of(call.logits_dtype);
    const Kernels& kernels = kernels_of(loss, table);
    launch_part(kernels, call, logits, [&](const Launch& to, void* spare, const cuda::Workspace& work) {
      return kernels.statistics_of(to, call, spare, work, out);
    });
  }
  static void late(const std::string& loss, const Call& call, const double* known, double* out, const Tensor& logits) {
    const Table table = table_of(call.logits_dtype);
    const Kernels& kernels = kernels_of(loss, table);
    if (!kernels.late_of) return;
    launch_part(kernels, call, logits, [&](const Launch& to, void* spare, const cuda::Workspace& work) {
      return kernels.late_of(to, call, known, spare, work, out);
    });
  }
  static void merge(const std::string& loss, const Parts& parts, double* out, const Tensor& statistics) {
    run_merge(kernels_of(loss, table_of(DType::kDouble)), parts, out, statistics);
  }
  static void finish(const std::string& loss, const Call& call, const Parts& parts, const ForwardOutputs& out,
                     const Tensor& statistics) {
    const Table table = table_of(call.logits_dtype);
    run_finish(table, kernels_of(loss, table), call, parts, out, statistics);
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
// the choice to the planner) wherever it can run; sums of losses have no kernels for resident and cluster, and
// take what they take unasked. Returns the one in use; -1 asks only.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_strategy(int strategy) {
  if (strategy >= 0) mlloss::wanted_strategy() = strategy;
  return mlloss::wanted_strategy();
}

// The strategy that the last forward pass of this process took: what a test asserts.
extern "C" __attribute__((visibility("default"))) int mlloss_cuda_last_strategy() { return mlloss::last_strategy(); }

#define MLLOSS_IMPLEMENT(name, key) \
  STABLE_TORCH_LIBRARY_IMPL(name, key, m) { mlloss::Ops<mlloss::CudaEngine>::implement(m); }
MLLOSS_IMPLEMENT(MLLOSS_NAMESPACE, MLLOSS_DISPATCH_KEY)
