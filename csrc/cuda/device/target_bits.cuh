// The hard targets of a block's part of a row as bits in shared memory, one byte for each 16-byte chunk of logits.
#pragma once

#include "targets.cuh"
#include "team_join.cuh"

namespace mlloss {
namespace cuda {

// A block's part of a row. Chunks begin at multiples of 16 bytes. The labels at the row's ends that fill no chunk are
// edges: at most V - 1 at each end, which the first block of a team processes one by one.
template <class In>
struct RowPart {
  static constexpr int V = kWidth<In>;
  int64_t start;     // the place of the row's first label, in elements from the first row
  int head, whole;   // labels before the chunks, and labels in chunks
  int first, count;  // the block's chunks

  MLLOSS_DEVICE RowPart(const DeviceCall& call, int row, int rank, int span)
      : start(row * call.logits_row_stride), first(rank * span) {
    const int labels = static_cast<int>(call.labels);
    const uint32_t before =
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(call.logits) / sizeof(In)) + static_cast<uint32_t>(start);
    head = static_cast<int>((0u - before) & (V - 1u));
    if (head > labels) head = labels;
    whole = (labels - head) & -V;
    count = whole / V - first < span ? whole / V - first : span;
  }

  MLLOSS_DEVICE int64_t begin() const { return start + (head + first * V); }
  MLLOSS_DEVICE bool has_edge(const DeviceCall& call, int i) const { return i < static_cast<int>(call.labels) - whole; }
  MLLOSS_DEVICE int64_t edge(int i) const { return start + (i + (i < head ? 0 : whole)); }
};

// The bits are in three buffers that take turns: one is in use, one receives the next row's bits, and one is cleared
// for the row after that. A buffer has a byte for each chunk, and then 16 bytes whose first word is for the edges.
// Dense targets use one buffer, in which every thread has its own bytes.
template <class In, bool kDense>
class TargetBits {
 public:
  static constexpr int V = kWidth<In>, kBuffers = 3;

  MLLOSS_DEVICE TargetBits(const DeviceCall& call, int span, unsigned char* memory)
      : call_(call), buffer_bytes_((span + 15) / 16 * 16 + 16), memory_(memory), now_(memory) {
    auto* words = reinterpret_cast<uint32_t*>(memory);
    for (int i = static_cast<int>(threadIdx.x); i < kBuffers * buffer_bytes_ / 4; i += static_cast<int>(blockDim.x)) {
      words[i] = 0;
    }
    __syncthreads();
  }

  MLLOSS_DEVICE uint32_t mask(int chunk) const { return now_[chunk]; }
  MLLOSS_DEVICE void set_mask(int chunk, uint32_t bits) const { now_[chunk] = static_cast<unsigned char>(bits); }
  // Returns the target of this thread's edge, which is element `at` of the batch.
  MLLOSS_DEVICE bool edge(int64_t at) const {
    if (kDense) return static_cast<const unsigned char*>(call_.targets)[at] != 0;
    return (edge_word(now_) >> threadIdx.x & 1u) != 0;
  }

  MLLOSS_DEVICE unsigned char* next() const { return following(now_); }
  MLLOSS_DEVICE void advance() {
    if (!kDense) now_ = following(now_);
  }

  // CSR: one warp starts to load the next row's entries, one for each lane. It sets their bits later, when other work
  // has hidden the latency of the loads.
  MLLOSS_DEVICE void find(int row) {
    const CsrRow entries = CsrRow::of(call_, row);
    entries_ = entries.count();
    label_ = this_lane() < entries_ ? entries.label(this_lane()) : -1;
  }
  MLLOSS_DEVICE void set(unsigned char* bits, int row, const RowPart<In>& part, int span) const {
    set_one(bits, part, span, label_);
    if (entries_ > kWarpLanes) set_others(bits, row, part, span);
  }

  // CSR: `threads` adjacent threads clear the bits of the row before. `thread` is the thread's number among them.
  MLLOSS_DEVICE void clear(int thread, int threads) const {
    auto* old = reinterpret_cast<uint4*>(following(following(now_)));
    for (int i = thread; i < buffer_bytes_ / 16; i += threads) old[i] = uint4{0, 0, 0, 0};
  }

 private:
  const DeviceCall& call_;
  const int buffer_bytes_;
  unsigned char *const memory_, *now_;
  int entries_ = 0, label_ = -1;  // the next row's entries, and the lane's first label

  MLLOSS_DEVICE unsigned char* following(unsigned char* buffer) const {
    return buffer == memory_ + (kBuffers - 1) * buffer_bytes_ ? memory_ : buffer + buffer_bytes_;
  }
  MLLOSS_DEVICE uint32_t& edge_word(unsigned char* bits) const {
    return *reinterpret_cast<uint32_t*>(bits + buffer_bytes_ - 16);
  }

  MLLOSS_DEVICE void set_others(unsigned char* bits, int row, const RowPart<In>& part, int span) const {
    const CsrRow entries = CsrRow::of(call_, row);
#pragma unroll 4
    for (int i = kWarpLanes + this_lane(); i < entries_; i += kWarpLanes) set_one(bits, part, span, entries.label(i));
  }

  MLLOSS_DEVICE void set_one(unsigned char* bits, const RowPart<In>& part, int span, int label) const {
    if (label < 0) return;
    const int at = label - part.head, chunk = (at >> (V == 8 ? 3 : 2)) - part.first;
    if (static_cast<unsigned>(at) >= static_cast<unsigned>(part.whole)) {
      if (part.first == 0) atomicOr(&edge_word(bits), 1u << (at < 0 ? label : label - part.whole));
    } else if (static_cast<unsigned>(chunk) < static_cast<unsigned>(span)) {
      atomicOr(reinterpret_cast<uint32_t*>(bits) + chunk / 4, 1u << (chunk % 4 * 8 + at % V));
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
