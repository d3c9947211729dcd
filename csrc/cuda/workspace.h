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

// The memory for the launches of one pass, from one allocation. torch's allocator reuses it in stream order.
class Scratch {
 public:
  // `pieces` are sizes in bytes, which may be 0.
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

  // Returns null for a piece of 0 bytes.
  void* get(size_t piece) const { return sizes_[piece] > 0 ? memory_ + starts_[piece] : nullptr; }

 private:
  static constexpr int64_t kUnit = 16;  // pieces start at multiples of this
  std::vector<int64_t> starts_, sizes_;
  OptionalTensor tensor_;
  double* memory_ = nullptr;
};

// Returns a counter that no other work on the GPU uses at the same time: the stream's own, because its kernels run one
// after another. Returns null during graph capture, because a graph may be replayed on any stream, and if there are too
// many streams.
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

// The workspace of a pass, kept while its launches are issued, and memory for coefficients that the caller does not
// keep.
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
