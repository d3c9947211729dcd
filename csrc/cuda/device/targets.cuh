// The targets of a chunk, from any layout and dtype. Hard targets are bits, so that a chunk without positives, as most
// chunks of a long row are, needs one comparison.
#pragma once

#include "csr.cuh"
#include "vector_io.cuh"

namespace mlloss {
namespace cuda {

template <class T, int V>
struct ChunkTargets {
  // Bit i is element i.
  uint32_t positive;
  uint32_t excluded;  // takes no part in the loss
  uint32_t invalid;   // a negative target other than ignore_index, which makes the logit NaN
  bool soft;          // `y` contains probabilities, and `positive` is not used
  T y[V];
};

// Returns four bools as four bits. A bool tensor that is a view of bytes may have other bytes than 1. The product moves
// the bits to the upper byte.
MLLOSS_DEVICE uint32_t nibble(uint32_t word) {
  const uint32_t ones = (((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) >> 7 & 0x01010101u;
  return ones * 0x01020408u >> 24 & 0xfu;
}

// Returns a chunk's bool targets as bits.
template <int V>
MLLOSS_DEVICE uint32_t bits_of(Bools bools) {
  if constexpr (V == 8) return (bools.x | bools.y) == 0 ? 0u : nibble(bools.x) | nibble(bools.y) << 4;
  return V == 4 ? nibble(bools.x) : 0u;
}

// Reads a row's targets from left to right. Every thread has its own reader. kSecondLogits: as in functors.
template <class T, int V, bool kSecondLogits>
class TargetReader {
 public:
  MLLOSS_DEVICE explicit TargetReader(const DeviceCall& call) : call_(call) {}

  MLLOSS_DEVICE void start(int64_t row) {
    if (sparse()) {
      const CsrRow entries = CsrRow::of(call_, row);
      start_ = entries.first();
      count_ = entries.count();
      rewind();
    } else {
      start_ = reinterpret_cast<int64_t>(call_.targets) + row * call_.targets_row_stride * call_.target_size;
    }
  }

  // Returns to the row's first label.
  MLLOSS_DEVICE void rewind() {
    next_ = -1;
    column_ = CsrRow::kFarLeft;
  }

  // CSR: returns the row's entries.
  MLLOSS_DEVICE CsrRow entries() const { return CsrRow(call_, start_, count_); }

  // Reads elements label to label + V - 1; `whole` is true if all of them lie in the row. Labels must not decrease from
  // call to call.
  MLLOSS_DEVICE ChunkTargets<T, V> read(int label, bool whole) {
    ChunkTargets<T, V> t;
    t.positive = t.excluded = t.invalid = 0;
    t.soft = false;
    if constexpr (kSecondLogits) {
      read_dense(label, whole, t);
      return t;
    }
    if (sparse()) {
      read_sparse(label, t);
    } else {
      read_dense(label, whole, t);
    }
    if (call_.label_smoothing > 0.0) smooth(t);
    return t;
  }

 private:
  const DeviceCall& call_;
  int64_t start_ = 0;          // dense: the address of the row; CSR: its first entry
  int count_ = 0;              // CSR: how many entries it has
  int next_ = 0, column_ = 0;  // CSR: the first entry that is not left of the last chunk, and its column

  // This does not test targets == nullptr, because a dense tensor without elements has no memory either.
  MLLOSS_DEVICE bool sparse() const { return call_.crow_indices != nullptr; }

  // ---- dense ---------------------------------------------------------------------------------------
  // Every loop of a kernel has a copy of this code, which takes most of the compile time. So dtypes share all of it but
  // their loads.

  MLLOSS_DEVICE void read_dense(int label, bool whole, ChunkTargets<T, V>& t) const {
    if (V == 1 || !together(label, whole)) return read_one_by_one(label, t);
    if (kSecondLogits || is_float(call_.targets_dtype)) {
      read_floats(label, t);
    } else {
      read_integers(label, t);
    }
  }

  MLLOSS_DEVICE void read_floats(int label, ChunkTargets<T, V>& t) const {
    switch (call_.targets_dtype) {
      case DType::kHalf:
        load<__half>(label, t.y);
        break;
      case DType::kBFloat16:
        load<__nv_bfloat16>(label, t.y);
        break;
      case DType::kFloat:
        load<float>(label, t.y);
        break;
      default:
        if constexpr (kLong) return read_pieces(label, t);
        load<double>(label, t.y);
    }
    if constexpr (kSecondLogits) {
      t.soft = true;
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) add_float(i, t);
    }
  }

  MLLOSS_DEVICE void read_integers(int label, ChunkTargets<T, V>& t) const {
    int y[V];
    switch (call_.targets_dtype) {
      case DType::kInt8:
        load<int8_t>(label, y);
        break;
      case DType::kInt16:
        load<int16_t>(label, y);
        break;
      case DType::kInt32:
        load<int32_t>(label, y);
        break;
      case DType::kInt64:
        if constexpr (kLong) return read_pieces(label, t);
        load<int64_t>(label, y);
        break;
      default:
        load<uint8_t>(label, y);
    }
    int any = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) any |= y[i];
    if (any == 0) return;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const uint32_t bit = 1u << i;
      const bool out = ignored(y[i]);
      t.excluded |= out ? bit : 0u;
      t.positive |= !out & (y[i] > 0) ? bit : 0u;
      t.invalid |= !out & (y[i] < 0) ? bit : 0u;
    }
  }

  // True if a chunk's targets of 8 bytes would need too many registers.
  static constexpr bool kLong = V > 4;

  // Reads targets of 8 bytes, 16 bytes at a time.
  MLLOSS_DEVICE void read_pieces(int label, ChunkTargets<T, V>& t) const {
    const bool floats = is_float(call_.targets_dtype);
    clear(t);
#pragma unroll 1
    for (int piece = 0; piece < V / 2; ++piece) {
      const Piece<int64_t> loaded = load_piece<int64_t>(label, piece);
      if (!kSecondLogits && (loaded.v[0] | loaded.v[1]) == 0) continue;
#pragma unroll 1
      for (int i = 0; i < 2; ++i) {
        const int64_t y = i == 0 ? loaded.v[0] : loaded.v[1];
        add_target(piece * 2 + i, floats ? meaning_of(bit_cast<double>(y)) : meaning_of(y), t);
      }
    }
  }

  MLLOSS_DEVICE void add_float(int i, ChunkTargets<T, V>& t) const {
    const uint32_t bit = 1u << i;
    const T y = t.y[i];
    const bool out = ignored(y), valid = !out & (y >= T(0));
    t.y[i] = valid ? y : T(0);
    t.excluded |= out ? bit : 0u;
    t.invalid |= out | valid ? 0u : bit;
    t.positive |= t.y[i] > T(0) ? bit : 0u;
    t.soft |= (t.y[i] != T(0)) & (t.y[i] != T(1));
  }

  // Reads strided targets and those at the ends of a row. The loop is not unrolled, because both are rare.
  MLLOSS_DEVICE void read_one_by_one(int label, ChunkTargets<T, V>& t) const {
    clear(t);
    const int64_t step = call_.targets_label_stride * call_.target_size;
#pragma unroll 1
    for (int i = 0; i < V; ++i) {
      if (!call_.inside(label + i)) continue;
      add_target(i, read_one(start_ + (label + i) * step), t);
    }
  }

  static MLLOSS_DEVICE void clear(ChunkTargets<T, V>& t) {
#pragma unroll
    for (int i = 0; i < V; ++i) t.y[i] = T(0);
    t.soft = kSecondLogits;
  }

  static MLLOSS_DEVICE void add_target(int at, T value, ChunkTargets<T, V>& t) {
    if constexpr (kSecondLogits) {
      place(at, value, t);
    } else {
      add_entry(at, value, t);
    }
  }

  MLLOSS_DEVICE T read_one(int64_t address) const {
    switch (call_.targets_dtype) {
      case DType::kBool:
      case DType::kUInt8:
        return one<uint8_t>(address);
      case DType::kInt8:
        return one<int8_t>(address);
      case DType::kInt16:
        return one<int16_t>(address);
      case DType::kInt32:
        return one<int32_t>(address);
      case DType::kInt64:
        return one<int64_t>(address);
      case DType::kHalf:
        return one<__half>(address);
      case DType::kBFloat16:
        return one<__nv_bfloat16>(address);
      case DType::kFloat:
        return one<float>(address);
      default:
        return one<double>(address);
    }
  }

  template <class Y>
  MLLOSS_DEVICE T one(int64_t address) const {
    return meaning_of(*reinterpret_cast<const Y*>(address));
  }

  // Returns a target in the form of a CSR value: negative for an excluded label, NaN for an invalid target.
  template <class Y>
  MLLOSS_DEVICE T meaning_of(Y y) const {
    if constexpr (std::is_integral_v<Y>) {
      return meaning(integer(y));
    } else {
      return meaning(static_cast<T>(widen(y)));
    }
  }

  MLLOSS_DEVICE T meaning(T y) const {
    if constexpr (kSecondLogits) return y;
    if (ignored(y)) return T(-1);
    return y >= T(0) ? y : static_cast<T>(NAN);
  }
  MLLOSS_DEVICE T meaning(int y) const {
    if (ignored(y)) return T(-1);
    return y > 0 ? T(1) : y == 0 ? T(0) : static_cast<T>(NAN);
  }

  MLLOSS_DEVICE bool ignored(int y) const { return call_.has_ignore_index & (y == call_.ignored_integer); }
  MLLOSS_DEVICE bool ignored(float y) const { return (y == call_.ignored_float) | (call_.ignores_nan & (y != y)); }
  MLLOSS_DEVICE bool ignored(double y) const {
    const bool equal = call_.ignores_nan ? y != y : y == static_cast<double>(call_.ignore_index);
    return call_.has_ignore_index & equal;
  }

  static MLLOSS_DEVICE int integer(int y) { return y; }
  static MLLOSS_DEVICE int integer(int64_t y) { return saturated(y); }

  // A chunk's targets are loaded in pieces of at most 16 bytes.
  template <class Y>
  static constexpr int kPieceSize = sizeof(Y) * V > 16 ? static_cast<int>(16 / sizeof(Y)) : V;

  template <class Y>
  struct alignas(sizeof(Y) * kPieceSize<Y>) Piece {
    Y v[kPieceSize<Y>];
  };

  template <class Y>
  MLLOSS_DEVICE Piece<Y> load_piece(int label, int piece) const {
    return reinterpret_cast<const Piece<Y>*>(reinterpret_cast<const Y*>(start_) + label)[piece];
  }

  // Loads adjacent targets.
  template <class Y, class To>
  MLLOSS_DEVICE void load(int label, To* y) const {
    constexpr int N = kPieceSize<Y>;
#pragma unroll
    for (int piece = 0; piece < V / N; ++piece) {
      const Piece<Y> loaded = load_piece<Y>(label, piece);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if constexpr (std::is_integral_v<Y>) {
          y[piece * N + i] = integer(loaded.v[i]);
        } else {
          y[piece * N + i] = static_cast<To>(widen(loaded.v[i]));
        }
      }
    }
  }

  // True if the chunk's targets are adjacent, and aligned for wide loads.
  MLLOSS_DEVICE bool together(int label, bool whole) const {
    const int bytes = call_.target_size * V, unit = bytes < 16 ? bytes : 16;
    const int64_t first = start_ + int64_t{label} * call_.target_size;
    return whole && call_.targets_label_stride == 1 && (first & (unit - 1)) == 0;
  }

  // ---- CSR -----------------------------------------------------------------------------------------
  // A thread reads chunks from left to right, and keeps the column of the next entry in a register.

  MLLOSS_DEVICE void skip_to(int label) {
    next_ = entries().lower_bound(next_ + 1, label);
    column_ = entries().column(next_);
  }

  // True if there are no entries from `label` to `label` + V - 1.
  MLLOSS_DEVICE bool no_entries(int label) {
    if (column_ < label) skip_to(label);
    return column_ - V >= label;
  }

  MLLOSS_DEVICE void read_sparse(int label, ChunkTargets<T, V>& t) {
    if (no_entries(label)) return;
#pragma unroll
    for (int i = 0; i < V; ++i) t.y[i] = T(0);
    while (next_ < count_ && column_ - V < label) {
      const int at = column_ - label;  // negative only if the columns are not sorted
      if (at >= 0) add_entry(at, call_.values ? entries().template value<T>(next_) : T(1), t);
      ++next_;
      column_ = entries().column(next_);
    }
  }

  // ---- both ----------------------------------------------------------------------------------------

  static MLLOSS_DEVICE void add_entry(int at, T value, ChunkTargets<T, V>& t) {
    const uint32_t bit = 1u << at;
    if (value < T(0)) {
      t.excluded |= bit;
    } else if (value != value) {
      t.invalid |= bit;
    } else {
      if (value > T(0)) t.positive |= bit;
      t.soft |= !(value == T(0) || value == T(1));
      place(at, value, t);
    }
  }

  static MLLOSS_DEVICE void place(int at, T value, ChunkTargets<T, V>& t) {
#pragma unroll
    for (int i = 0; i < V; ++i) t.y[i] = i == at ? value : t.y[i];
  }

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
