// The targets of a chunk, from any layout and dtype. Hard ones arrive as bits: most chunks of a long
// row hold no positive, and cost one comparison.
#pragma once

#include "vector_io.cuh"

namespace mlloss {
namespace cuda {

template <class T, int V>
struct ChunkTargets {
  // Bit i is element i.
  uint32_t positive;
  uint32_t excluded;  // takes no part
  uint32_t spoiled;   // a negative target that is not the ignore_index: its logit becomes NaN
  bool soft;          // y holds probabilities, and `positive` does not count
  T y[V];
};

// Four bytes of 0 and 1 as bits, gathered by a product.
MLLOSS_DEVICE uint32_t nibble(uint32_t word) { return word * 0x01020408u >> 24 & 0xfu; }

// A chunk's bool targets as bits.
template <int V>
MLLOSS_DEVICE uint32_t bools(SharedAddress targets) {
  if constexpr (V == 8) {
    const uint2 pair = load_shared<uint2>(targets);
    return (pair.x | pair.y) == 0 ? 0u : nibble(pair.x) | nibble(pair.y) << 4;
  } else if constexpr (V == 4) {
    return nibble(load_shared<uint32_t>(targets));
  }
  return 0u;
}

// A row's targets, read from left to right. Every thread has its own. kRaw: what functors call raw targets.
template <class T, int V, bool kRaw>
class TargetReader {
 public:
  MLLOSS_DEVICE explicit TargetReader(const DeviceCall& call) : call_(call) {}

  MLLOSS_DEVICE void start(int64_t row) {
    if (!sparse()) {
      start_ =
          reinterpret_cast<int64_t>(call_.targets) + row * call_.targets_row_stride * bytes_of(call_.targets_dtype);
      return;
    }
    start_ = clamp(index(call_.crow_indices, row));
    const int64_t entries = clamp(index(call_.crow_indices, row + 1)) - start_;
    last_ = static_cast<int>(entries < 0 ? 0 : entries < call_.all_labels ? entries : call_.all_labels);
    next_ = 0;
    column_ = column(0);
  }

  // Sparse: whether none lie from `label` to `label` + V - 1, as far as is known without looking.
  MLLOSS_DEVICE bool no_entries(int label) const { return column_ - V >= label; }

  // Elements label to label + V - 1; `whole` if all of them lie in the row. `staged`: dense targets that
  // were copied to shared memory, or 0.
  MLLOSS_DEVICE ChunkTargets<T, V> read(int label, bool whole, SharedAddress staged) {
    ChunkTargets<T, V> t;
    t.positive = t.excluded = t.spoiled = 0;
    t.soft = false;
    if constexpr (kRaw) {
      read_other_logits(label, whole, staged, t);
      return t;
    }
    if (sparse()) {
      read_sparse(label, t);
    } else {
      read_dense(label, whole, staged, t);
    }
    if (call_.label_smoothing > 0.0) smooth(t);
    return t;
  }

 private:
  const DeviceCall& call_;
  // Dense: the row's address. CSR: the row's first entry in col_indices.
  int64_t start_ = 0;
  // CSR, counted from there: the first entry not left of the next chunk, its column, the row's end.
  int next_ = 0, column_ = 0, last_ = 0;

  static constexpr int kNoColumn = 0x7fffffff, kFarLeft = -(1 << 30);

  // Not `targets == nullptr`: a tensor without elements has no memory either.
  MLLOSS_DEVICE bool sparse() const { return call_.crow_indices != nullptr; }

  // ---- dense ---------------------------------------------------------------------------------------

  MLLOSS_DEVICE void read_dense(int label, bool whole, SharedAddress staged, ChunkTargets<T, V>& t) const {
    switch (call_.targets_dtype) {
      case DType::kBool:
      case DType::kUInt8:
        return read_integers<uint8_t>(label, whole, staged, t);
      case DType::kInt8:
        return read_integers<int8_t>(label, whole, staged, t);
      case DType::kInt16:
        return read_integers<int16_t>(label, whole, staged, t);
      case DType::kInt32:
        return read_integers<int32_t>(label, whole, staged, t);
      case DType::kInt64:
        return read_integers<int64_t>(label, whole, staged, t);
      case DType::kHalf:
        return read_floats<__half>(label, whole, staged, t);
      case DType::kBFloat16:
        return read_floats<__nv_bfloat16>(label, whole, staged, t);
      case DType::kFloat:
        return read_floats<float>(label, whole, staged, t);
      default:
        return read_floats<double>(label, whole, staged, t);
    }
  }

  MLLOSS_DEVICE void read_other_logits(int label, bool whole, SharedAddress staged, ChunkTargets<T, V>& t) const {
    switch (call_.targets_dtype) {
      case DType::kHalf:
        return read_floats<__half>(label, whole, staged, t);
      case DType::kBFloat16:
        return read_floats<__nv_bfloat16>(label, whole, staged, t);
      case DType::kFloat:
        return read_floats<float>(label, whole, staged, t);
      default:
        return read_floats<double>(label, whole, staged, t);
    }
  }

  // 16 bytes at most of what a chunk needs.
  template <class Y>
  static constexpr int kPart = sizeof(Y) * V > 16 ? static_cast<int>(16 / sizeof(Y)) : V;

  template <class Y>
  struct alignas(sizeof(Y) * kPart<Y>) Part {
    Y v[kPart<Y>];
  };

  template <class Y>
  MLLOSS_DEVICE const Y* address(int label) const {
    return reinterpret_cast<const Y*>(start_) + label * call_.targets_label_stride;
  }

  template <class Y>
  MLLOSS_DEVICE Part<Y> load_part(int label, int part, SharedAddress staged) const {
    constexpr int kBytes = static_cast<int>(sizeof(Part<Y>));
    if constexpr (kBytes == 16) {
      if (staged) return bit_cast<Part<Y>>(load_shared<uint4>(staged + part * kBytes));
    } else if constexpr (kBytes == 8) {
      if (staged) return bit_cast<Part<Y>>(load_shared<uint2>(staged));
    } else if constexpr (kBytes == 4) {
      if (staged) return bit_cast<Part<Y>>(load_shared<uint32_t>(staged));
    }
    return reinterpret_cast<const Part<Y>*>(address<Y>(label))[part];
  }

  // Whether the chunk's targets lie together, and on the boundary that wide loads need.
  template <class Y>
  MLLOSS_DEVICE bool together(int label, bool whole) const {
    return whole && call_.targets_label_stride == 1 && aligned(address<Y>(label), sizeof(Part<Y>));
  }

  MLLOSS_DEVICE bool inside(int label) const {
    return static_cast<unsigned>(label) < static_cast<unsigned>(call_.labels);
  }

  template <class Y>
  MLLOSS_DEVICE void read_integers(int label, bool whole, SharedAddress staged, ChunkTargets<T, V>& t) const {
    if (!staged && !together<Y>(label, whole)) {
      // One by one: rolled up, for it is rare and every dtype has a copy.
#pragma unroll 1
      for (int i = 0; i < V; ++i) {
        if (inside(label + i)) add_integer(*address<Y>(label + i), 1u << i, t);
      }
      return;
    }
    constexpr int N = kPart<Y>;
#pragma unroll
    for (int part = 0; part < V / N; ++part) {
      const Part<Y> loaded = load_part<Y>(label, part, staged);
      if (all_zero(loaded)) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) add_integer(loaded.v[i], 1u << (part * N + i), t);
    }
  }

  template <class Y>
  static MLLOSS_DEVICE bool all_zero(const Part<Y>& part) {
    Y any = 0;
#pragma unroll
    for (int i = 0; i < kPart<Y>; ++i) any = static_cast<Y>(any | part.v[i]);
    return any == 0;
  }

  template <class Y>
  MLLOSS_DEVICE void add_integer(Y y, uint32_t bit, ChunkTargets<T, V>& t) const {
    const bool ignored = call_.has_ignore_index && static_cast<int64_t>(y) == call_.ignore_index;
    if (ignored) {
      t.excluded |= bit;
    } else if (y > 0) {
      t.positive |= bit;
    } else if (y != 0) {
      t.spoiled |= bit;
    }
  }

  template <class Y>
  MLLOSS_DEVICE void read_floats(int label, bool whole, SharedAddress staged, ChunkTargets<T, V>& t) const {
    constexpr int N = kPart<Y>;
    const bool wide = staged || together<Y>(label, whole);
#pragma unroll
    for (int part = 0; part < V / N; ++part) {
      Part<Y> loaded;
      if (wide) {
        loaded = load_part<Y>(label, part, staged);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const int at = label + part * N + i;
          loaded.v[i] = inside(at) ? *address<Y>(at) : Y(0.0f);
        }
      }
#pragma unroll
      for (int i = 0; i < N; ++i) add_float(widen(loaded.v[i]), 1u << (part * N + i), t.y[part * N + i], t);
    }
  }

  template <class F>
  MLLOSS_DEVICE void add_float(F y, uint32_t bit, T& out, ChunkTargets<T, V>& t) const {
    if constexpr (kRaw) {
      out = static_cast<T>(y);
      t.soft = true;
      return;
    }
    const bool ignored = call_.has_ignore_index && static_cast<double>(y) == static_cast<double>(call_.ignore_index);
    const bool valid = !ignored && y >= 0;
    out = valid ? static_cast<T>(y) : T(0);
    t.soft |= !(out == T(0) || out == T(1));
    if (ignored) {
      t.excluded |= bit;
    } else if (!valid) {
      t.spoiled |= bit;
    } else if (out > T(0)) {
      t.positive |= bit;
    }
  }

  // ---- CSR -----------------------------------------------------------------------------------------
  // A thread's chunks go from left to right, so it keeps the next entry's column in a register; a
  // chunk without entries costs one comparison, and no thread waits for another.

  MLLOSS_DEVICE int64_t index(const void* indices, int64_t k) const {
    return call_.wide_indices ? static_cast<const int64_t*>(indices)[k]
                              : static_cast<int64_t>(static_cast<const int32_t*>(indices)[k]);
  }

  MLLOSS_DEVICE int64_t clamp(int64_t k) const { return k < 0 ? 0 : k > call_.nnz ? call_.nnz : k; }

  MLLOSS_DEVICE int column(int k) const {
    if (k >= last_) return kNoColumn;
    const int64_t c = index(call_.col_indices, start_ + k) - call_.first_label;
    return c < kFarLeft ? kFarLeft : c > kNoColumn ? kNoColumn : static_cast<int>(c);
  }

  MLLOSS_DEVICE void skip_to(int label) {
    int low = next_ + 1, high = last_;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (column(middle) < label) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    next_ = low;
    column_ = column(low);
  }

  MLLOSS_DEVICE void read_sparse(int label, ChunkTargets<T, V>& t) {
    if (column_ < label) skip_to(label);
    if (column_ - V >= label) return;
#pragma unroll
    for (int i = 0; i < V; ++i) t.y[i] = T(0);
    while (next_ < last_ && column_ - V < label) {
      const int place = column_ - label;  // below 0 only if the columns are not sorted
      if (place >= 0) add_entry(place, call_.values ? static_cast<const T*>(call_.values)[start_ + next_] : T(1), t);
      ++next_;
      column_ = column(next_);
    }
  }

  static MLLOSS_DEVICE void add_entry(int place, T value, ChunkTargets<T, V>& t) {
    const uint32_t bit = 1u << place;
    if (value < T(0)) {
      t.excluded |= bit;
    } else if (value != value) {
      t.spoiled |= bit;
    } else {
      if (value > T(0)) t.positive |= bit;
      t.soft |= !(value == T(0) || value == T(1));
#pragma unroll
      for (int i = 0; i < V; ++i) t.y[i] = i == place ? value : t.y[i];
    }
  }

  // ---- both ----------------------------------------------------------------------------------------

  MLLOSS_DEVICE void smooth(ChunkTargets<T, V>& t) const {
    const T slope = static_cast<T>(call_.smooth_slope), floor = static_cast<T>(call_.smooth_floor);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const T y = t.soft ? t.y[i] : (t.positive >> i & 1u) ? T(1) : T(0);
      t.y[i] = y * slope + floor;
    }
    t.soft = true;
  }
};

}  // namespace cuda
}  // namespace mlloss
