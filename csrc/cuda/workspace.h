// Memory for the launches of a pass.
#pragma once

#include <initializer_list>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "device.h"
#include "kernels.h"

namespace mlloss {
namespace cuda {

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
inline unsigned* counter_of(int device, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status));
  if (status != cudaStreamCaptureStatusNone) return nullptr;
  static std::mutex mutex;
  static std::map<std::pair<int, cudaStream_t>, unsigned*> known;
  static std::map<int, int> used;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({device, stream});
  if (found != known.end()) return found->second;
  if (used[device] == kStreamCounters) return nullptr;
  unsigned* first = nullptr;
  check(stream_counters(&first));
  return known[{device, stream}] = first + used[device]++;
}

// A workspace for as long as its launches are being made, and coefficients that nobody keeps.
class Memory {
 public:
  Memory(const WorkspaceSizes& sizes, int64_t coefficient_bytes, const Tensor& like, int device, cudaStream_t stream)
      : counter_(sizes.counters == 1 ? counter_of(device, stream) : nullptr),
        scratch_(like, {sizes.partial_sums * 8, sizes.statistics_bytes, coefficient_bytes,
                        counter_ ? 0 : sizes.counters * 4}) {
    if (counter_) return;
    counter_ = static_cast<unsigned*>(scratch_.get(3));
    check(cudaMemsetAsync(counter_, 0, static_cast<size_t>(sizes.counters) * 4, stream));
  }

  Workspace work() const { return {static_cast<double*>(scratch_.get(0)), scratch_.get(1), counter_}; }
  void* coefficients() const { return scratch_.get(2); }

 private:
  unsigned* counter_;
  Scratch scratch_;
};

inline int64_t coefficient_bytes(const LossKernels& kernels, const Call& call) {
  return kernels.element_wise ? 0 : kernels.coefficients * group_count(call) * 8;
}

}  // namespace cuda
}  // namespace mlloss
