// Accesses of 16 bytes, their conversions, and the chunks of a row.
//
// Chunks start at multiples of 16 bytes. With an odd number of labels, rows start at different offsets, so the first
// and the last chunk of a row may be partial: their lanes outside the row are neither loaded nor stored.
#pragma once

#include <type_traits>

#include "../../core/numerics.h"
#include "device_call.h"
#include "portability.cuh"

namespace mlloss {
namespace cuda {

template <class In>
using Compute = std::conditional_t<std::is_same_v<In, double>, double, float>;

template <class In>
constexpr int kWidth = static_cast<int>(16 / sizeof(In));

template <class In>
struct alignas(16) Lanes {
  In v[kWidth<In>];
};

MLLOSS_DEVICE float widen(float x) { return x; }
MLLOSS_DEVICE double widen(double x) { return x; }
MLLOSS_DEVICE float widen(__half x) { return __half2float(x); }
MLLOSS_DEVICE float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class Out>
MLLOSS_DEVICE Out narrow(Compute<Out> x) {
  if constexpr (sizeof(Out) >= 4) {
    return x;
  } else if constexpr (std::is_same_v<Out, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// Returns the bits of two 16-bit floats, which one instruction converts.
template <class In>
MLLOSS_DEVICE uint32_t pair_of(float low, float high) {
  if constexpr (std::is_same_v<In, __half>) {
    return bit_cast<uint32_t>(__floats2half2_rn(low, high));
  } else {
    return bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
  }
}

template <class In>
MLLOSS_DEVICE uint4 pack(const Compute<In>* x) {
  if constexpr (sizeof(In) == 2) {
    return {pair_of<In>(x[0], x[1]), pair_of<In>(x[2], x[3]), pair_of<In>(x[4], x[5]), pair_of<In>(x[6], x[7])};
  } else {
    Lanes<In> lanes;
#pragma unroll
    for (int i = 0; i < kWidth<In>; ++i) lanes.v[i] = x[i];
    return bit_cast<uint4>(lanes);
  }
}

template <class In>
MLLOSS_DEVICE void unpack(uint4 raw, Compute<In>* x) {
  if constexpr (std::is_same_v<In, __nv_bfloat16>) {
    // A bfloat16 is the upper half of a float's bits.
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = bit_cast<float>(words[i] << 16);
      x[2 * i + 1] = bit_cast<float>(words[i] & 0xffff0000u);
    }
    return;
  }
  const Lanes<In> lanes = bit_cast<Lanes<In>>(raw);
#pragma unroll
  for (int i = 0; i < kWidth<In>; ++i) x[i] = widen(lanes.v[i]);
}

// Moves the first item behind the last one, so that a loop over items in registers need not be unrolled.
template <class T, int K>
MLLOSS_DEVICE void rotate(T (&x)[K]) {
  const T first = x[0];
#pragma unroll
  for (int k = 0; k + 1 < K; ++k) x[k] = x[k + 1];
  x[K - 1] = first;
}

// Loads data that is seldom used twice: it is not kept in the first-level cache. The load is one instruction; from an
// assignment of 16 bytes the compiler makes four.
template <class Word>
MLLOSS_DEVICE Word load_once(const void* from) {
#ifdef __CUDA_ARCH__
  Word x;
  if constexpr (sizeof(Word) == 16) {
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
  } else if constexpr (sizeof(Word) == 8) {
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(from));
  } else {
    asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(x) : "l"(from));
  }
  return x;
#else
  return __ldcs(static_cast<const Word*>(from));
#endif
}

// Starts to bring data into the second-level cache.
MLLOSS_DEVICE void prefetch(const void* from) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#else
  static_cast<void>(from);
#endif
}

// Stores data that leaves the second-level cache early.
MLLOSS_DEVICE void store_once(void* to, uint4 x) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
#else
  __stcs(static_cast<uint4*>(to), x);
#endif
}

MLLOSS_DEVICE bool aligned(const void* p, uintptr_t bytes) {
  return (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) == 0;
}

// The bool targets of a chunk, one byte for each label.
using Bools = uint2;

template <int V>
MLLOSS_DEVICE Bools load_bools(const unsigned char* from) {
  if constexpr (V == 8) return load_once<uint2>(from);
  if constexpr (V == 4) return {load_once<uint32_t>(from), 0u};
  return {};
}

// The logits and bool targets of one row, and the positions of its chunks. Chunks from `whole_first` to `whole_last` -
// 1 have all of their lanes in the row; at most one is before them and one behind them.
template <class In>
struct LogitsRow {
  static constexpr int V = kWidth<In>;

  const DeviceCall& call;
  const In* x;                 // the logits from chunk 0 on
  const unsigned char* bools;  // the targets from chunk 0 on, or null if they are not loaded with the logits
  int shift;                   // lanes of chunk 0 that lie before label 0
  int chunks;
  int whole_first, whole_last;
  // Chunks that start below this label take the fast path; 0 disables it for the row.
  unsigned fast_path_starts;

  MLLOSS_DEVICE LogitsRow(const DeviceCall& c, int64_t row)
      : call(c), x(static_cast<const In*>(c.logits) + row * c.logits_row_stride) {
    shift = adjacent() ? static_cast<int>(reinterpret_cast<uintptr_t>(x) % 16 / sizeof(In)) : 0;
    x = keep(x - shift);
    const unsigned lanes = static_cast<unsigned>(call.labels) + static_cast<unsigned>(shift);
    chunks = static_cast<int>((lanes + V - 1) / V);
    whole_first = shift > 0 ? 1 : 0;
    whole_last = static_cast<int>(lanes / V);
    if (whole_last < whole_first) whole_last = whole_first;
    bools = call.fast_path == FastPath::kBools ? bools_of(row) : nullptr;
    const bool fast = call.fast_path == FastPath::kSparse || bools;
    fast_path_starts = keep(fast ? call.whole_starts : 0u);
  }

  // True if the labels are adjacent in memory.
  MLLOSS_DEVICE bool adjacent() const { return call.logits_label_stride == 1; }
  MLLOSS_DEVICE int label_of(int chunk) const { return chunk * V - shift; }
  MLLOSS_DEVICE bool whole(int label) const { return static_cast<unsigned>(label) < call.whole_starts; }
  MLLOSS_DEVICE bool fast() const { return fast_path_starts != 0; }

  MLLOSS_DEVICE const In* logits_of(int chunk) const { return x + int64_t{chunk} * V; }
  MLLOSS_DEVICE const unsigned char* bools_at(int chunk) const { return bools + int64_t{chunk} * V; }

  // Loads the logits of V labels, at any alignment.
  MLLOSS_DEVICE uint4 load(int label) const {
    const In* first = x + shift + label;
    const bool together = adjacent() && whole(label) && aligned(first, 16);
    return together ? load_once<uint4>(first) : gather(label);
  }

  MLLOSS_DEVICE Compute<In> logit(int label) const { return widen(x[shift + label * call.logits_label_stride]); }

  // Loads lane by lane: at the ends of a row and for strided labels.
  MLLOSS_DEVICE uint4 gather(int label) const {
    Lanes<In> lanes = bit_cast<Lanes<In>>(uint4{0, 0, 0, 0});
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (call.inside(label + i)) lanes.v[i] = x[shift + (label + i) * call.logits_label_stride];
    }
    return bit_cast<uint4>(lanes);
  }

 private:
  // Returns null if a chunk's targets cannot be loaded at once.
  MLLOSS_DEVICE const unsigned char* bools_of(int64_t row) const {
    const unsigned char* first =
        static_cast<const unsigned char*>(call.targets) + (row * call.targets_row_stride - shift);
    return V >= 4 && aligned(first, V) ? first : nullptr;
  }
};

// The gradient of a row. Its labels are adjacent, whatever the strides of the logits.
template <class In>
class GradientRow {
 public:
  MLLOSS_DEVICE GradientRow(const LogitsRow<In>& row, void* gradient, int64_t r)
      : row_(row),
        memory_(keep(gradient ? static_cast<In*>(gradient) + r * row.call.gradient_row_stride : nullptr)),
        aligned_(((reinterpret_cast<uintptr_t>(memory_) - row.shift * sizeof(In)) & 15) == 0) {}

  // True if chunks of the row are stored with one access.
  MLLOSS_DEVICE bool whole_accesses() const { return aligned_; }

  // Stores the lanes that lie in the row. All lanes of a chunk on the fast path lie there.
  template <class Kind>
  MLLOSS_DEVICE void store(Kind, int label, const Compute<In>* g) const {
    if (Kind::kWholeAccess || (aligned_ && (Kind::kFastPath || row_.whole(label)))) {
      store_once(memory_ + label, pack<In>(g));
    } else {
      store_lanes(label, g);
    }
  }

 private:
  const LogitsRow<In>& row_;
  In* const memory_;
  const bool aligned_;

  MLLOSS_DEVICE void store_lanes(int label, const Compute<In>* g) const {
#pragma unroll
    for (int i = 0; i < kWidth<In>; ++i) {
      if (row_.call.inside(label + i)) memory_[label + i] = narrow<In>(g[i]);
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
