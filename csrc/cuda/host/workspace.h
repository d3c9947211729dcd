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

// Memory for the launches of one pass, from one allocation. torch's allocator reuses it in stream order.
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

// Returns the zeros of the stream, whose kernels run one after another.
// Returns nulls in three cases: during graph capture, because a graph may be replayed on any stream; for
// cudaStreamPerThread, which is a different stream in every thread; and after the process has used kStreams streams.
// The key is the stream's id, because the handle of a destroyed stream, whose work may still run, can be used again.
inline Zeros zeros_of(int device, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status));
  if (status != cudaStreamCaptureStatusNone || stream == cudaStreamPerThread) return {};
  unsigned long long id = 0;
  check(cudaStreamGetId(stream, &id));
  static std::mutex mutex;
  static std::map<std::pair<int, unsigned long long>, Zeros> known;
  static std::map<int, int> used;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({device, id});
  if (found != known.end()) return found->second;
  const int number = used[device];
  if (number == kStreams) return {};
  Zeros zeros{};
  check(zeros_of_stream(number, &zeros));
  ++used[device];
  return known[{device, id}] = zeros;
}

// The workspace of a pass, kept while its launches are issued, and memory for coefficients that the caller does not
// keep.
class Memory {
 public:
  Memory(const WorkspaceSizes& sizes, int64_t coefficient_bytes, const Tensor& like, int device, cudaStream_t stream)
      : zeros_(of_stream(sizes, device, stream)),
        scratch_(like, {sizes.partial_sums * 8, sizes.statistics_bytes, coefficient_bytes,
                        zeros_.counters ? 0 : sizes.packets * 8 + sizes.counters * 4}) {
    if (zeros_.counters) return;
    zeros_.packets = static_cast<uint64_t*>(scratch_.get(3));
    zeros_.counters = reinterpret_cast<unsigned*>(zeros_.packets + sizes.packets);
    check(cudaMemsetAsync(zeros_.packets, 0, static_cast<size_t>(sizes.packets * 8 + sizes.counters * 4), stream));
  }

  Workspace work() const {
    return {static_cast<double*>(scratch_.get(0)), scratch_.get(1), zeros_.counters, zeros_.packets, nullptr};
  }
  void* coefficients() const { return scratch_.get(2); }

 private:
  Zeros zeros_;
  Scratch scratch_;

  static Zeros of_stream(const WorkspaceSizes& sizes, int device, cudaStream_t stream) {
    if (sizes.counters > 2 || sizes.packets > kStreamPackets) return {};
    const Zeros zeros = zeros_of(device, stream);
    return sizes.packets > 0 && !zeros.packets ? Zeros{} : zeros;
  }
};

inline int64_t coefficient_bytes(const LossKernels& kernels, const Call& call) {
  return kernels.element_wise ? 0 : kernels.coefficients * group_count(call) * 8;
}

}  // namespace cuda
}  // namespace mlloss
