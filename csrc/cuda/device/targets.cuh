// The targets of a chunk, from any layout and dtype. Hard targets are bits, so that a chunk without positives, as most
// chunks of a long row are, needs one comparison.
#pragma once

#include "csr.cuh"
#include "vector_io.cuh"

namespace mlloss {
namespace cuda {

// A chunk in the form that functors read: logits after scale and offsets, targets, weights. Bit i is lane i.
template <class T, int V>
struct Chunk {
  int label;  // label of lane 0; negative if the row starts inside the chunk
  uint32_t positive = 0;
  uint32_t excluded = 0;       // weight 0, ignored, or outside the row: the gradient is exactly 0
  uint32_t invalid = 0;        // a negative target other than ignore_index, which makes the logit NaN
  bool soft = false;           // `y` contains probabilities, and `positive` is not used
  const T* weights = nullptr;  // the weights from lane 0 on, or null; each is loaded at its use, to save registers
  T s[V], y[V];

  MLLOSS_DEVICE T weight(int i) const {
    if (excluded >> i & 1u) return T(0);
    return weights ? weights[i] : T(1);
  }

  // Puts the second element in the place of the first one, for loops that are not unrolled.
  MLLOSS_DEVICE void advance() {
    rotate(s);
    rotate(y);
    positive >>= 1;
    excluded >>= 1;
    if (weights) ++weights;
    ++label;
  }
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

  // Reads the targets of a chunk; `whole` is true if all of its labels lie in the row. Labels must not decrease from
  // call to call.
  MLLOSS_DEVICE void read(Chunk<T, V>& chunk, bool whole) {
    if (!kSecondLogits && sparse()) {
      read_sparse(chunk);
    } else {
      read_dense(chunk, whole);
    }
    if (!kSecondLogits && call_.label_smoothing > 0.0) smooth(chunk);
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

  MLLOSS_DEVICE void read_dense(Chunk<T, V>& chunk, bool whole) const {
    chunk.soft = kSecondLogits;
    if (V > 1 && together(chunk.label, whole)) {
      if (V > 4 && call_.target_size == 8) return read_pieces(chunk);
      return read_adjacent<V>(start_ + int64_t{chunk.label} * call_.target_size, 0, chunk);
    }
    // The loop over strided targets and those at the ends of a row is not unrolled, because both are rare.
    const int64_t step = call_.targets_label_stride * call_.target_size;
    clear(chunk);
#pragma unroll 1
    for (int i = 0; i < V; ++i) {
      if (call_.inside(chunk.label + i)) read_adjacent<1>(start_ + (chunk.label + i) * step, i, chunk);
    }
  }

  // Reads N adjacent targets, which are those of the lanes from `first` on.
  template <int N>
  MLLOSS_DEVICE void read_adjacent(int64_t from, int first, Chunk<T, V>& chunk) const {
    if (kSecondLogits || is_float(call_.targets_dtype)) {
      T y[N];
      load_floats(from, y);
#pragma unroll
      for (int i = 0; i < N; ++i) add_number<N == 1>(first + i, y[i], ignored(y[i]), chunk);
    } else {
      int y[N];
      load_integers(from, y);
      int any = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) any |= y[i];
      if (any == 0) return;
#pragma unroll
      for (int i = 0; i < N; ++i) add_integer(first + i, y[i], chunk);
    }
  }

  MLLOSS_DEVICE void add_integer(int at, int y, Chunk<T, V>& chunk) const {
    const uint32_t bit = 1u << at;
    const bool out = ignored(y);
    chunk.excluded |= out ? bit : 0u;
    chunk.positive |= !out & (y > 0) ? bit : 0u;
    chunk.invalid |= !out & (y < 0) ? bit : 0u;
  }

  // A dtype of 8 bytes, or one that stands for it where read_pieces() serves it, so that there is no code for it.
  template <class Y, class Other, int N>
  using Short = std::conditional_t<(N > 4), Other, Y>;

  template <int N>
  MLLOSS_DEVICE void load_floats(int64_t from, T (&y)[N]) const {
    switch (call_.targets_dtype) {
      case DType::kHalf:
        return load<__half>(from, y);
      case DType::kBFloat16:
        return load<__nv_bfloat16>(from, y);
      case DType::kFloat:
        return load<float>(from, y);
      default:
        return load<Short<double, float, N>>(from, y);
    }
  }

  template <int N>
  MLLOSS_DEVICE void load_integers(int64_t from, int (&y)[N]) const {
    switch (call_.targets_dtype) {
      case DType::kInt8:
        return load<int8_t>(from, y);
      case DType::kInt16:
        return load<int16_t>(from, y);
      case DType::kInt32:
        return load<int32_t>(from, y);
      case DType::kInt64:
        return load<Short<int64_t, int32_t, N>>(from, y);
      default:
        return load<uint8_t>(from, y);
    }
  }

  template <class Y, int N>
  struct alignas(sizeof(Y) * N) Piece {
    Y v[N];
  };

  // Loads N adjacent targets, in pieces of at most 16 bytes.
  template <class Y, class To, int N>
  static MLLOSS_DEVICE void load(int64_t from, To (&to)[N]) {
    constexpr int kPiece = sizeof(Y) * N > 16 ? static_cast<int>(16 / sizeof(Y)) : N;
#pragma unroll
    for (int piece = 0; piece < N / kPiece; ++piece) {
      const auto loaded = reinterpret_cast<const Piece<Y, kPiece>*>(from)[piece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) to[piece * kPiece + i] = number<To>(loaded.v[i]);
    }
  }

  template <class To, class Y>
  static MLLOSS_DEVICE To number(Y y) {
    if constexpr (std::is_integral_v<Y>) {
      return saturated(y);
    } else {
      return static_cast<To>(widen(y));
    }
  }

  // Reads targets of 8 bytes, 16 bytes at a time, because eight of them would need too many registers.
  MLLOSS_DEVICE void read_pieces(Chunk<T, V>& chunk) const {
    const bool floats = is_float(call_.targets_dtype);
    const auto* pieces = reinterpret_cast<const Piece<int64_t, 2>*>(start_ + int64_t{chunk.label} * 8);
    clear(chunk);
#pragma unroll 1
    for (int piece = 0; piece < V / 2; ++piece) {
      const auto loaded = pieces[piece];
      if (!kSecondLogits && (loaded.v[0] | loaded.v[1]) == 0) continue;
#pragma unroll 1
      for (int i = 0; i < 2; ++i) {
        const int at = piece * 2 + i;
        const int64_t y = i == 0 ? loaded.v[0] : loaded.v[1];
        if (kSecondLogits || floats) {
          const T value = static_cast<T>(bit_cast<double>(y));
          add_number<true>(at, value, ignored(value), chunk);
        } else {
          add_integer(at, saturated(y), chunk);
        }
      }
    }
  }

  MLLOSS_DEVICE bool ignored(int y) const { return call_.has_ignore_index & (y == call_.ignored_integer); }
  MLLOSS_DEVICE bool ignored(float y) const { return (y == call_.ignored_float) | (call_.ignores_nan & (y != y)); }
  MLLOSS_DEVICE bool ignored(double y) const {
    const bool equal = call_.ignores_nan ? y != y : y == static_cast<double>(call_.ignore_index);
    return call_.has_ignore_index & equal;
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

  MLLOSS_DEVICE void read_sparse(Chunk<T, V>& chunk) {
    const int label = chunk.label;
    if (no_entries(label)) return;
    clear(chunk);
    while (next_ < count_ && column_ - V < label) {
      const int at = column_ - label;  // negative only if the columns are not sorted
      const T value = call_.values ? entries().template value<T>(next_) : T(1);
      if (at >= 0) add_number<true>(at, value, value < T(0), chunk);
      ++next_;
      column_ = entries().column(next_);
    }
  }

  // ---- both ----------------------------------------------------------------------------------------

  static MLLOSS_DEVICE void clear(Chunk<T, V>& chunk) {
#pragma unroll
    for (int i = 0; i < V; ++i) chunk.y[i] = T(0);
  }

  // Sets the target of a lane; `out` excludes it. kOne: the target is read alone, and branches cost least.
  template <bool kOne>
  static MLLOSS_DEVICE void add_number(int at, T value, bool out, Chunk<T, V>& chunk) {
    if constexpr (!kSecondLogits) {
      const uint32_t bit = 1u << at;
      const bool valid = !out & (value >= T(0));
      if (kOne && out) {
        chunk.excluded |= bit;
        return;
      }
      if (kOne && !valid) {
        chunk.invalid |= bit;
        return;
      }
      value = valid ? value : T(0);
      chunk.excluded |= out ? bit : 0u;
      chunk.invalid |= out | valid ? 0u : bit;
      chunk.positive |= value > T(0) ? bit : 0u;
      chunk.soft |= (value != T(0)) & (value != T(1));
    }
#pragma unroll
    for (int i = 0; i < V; ++i) chunk.y[i] = i == at ? value : chunk.y[i];
  }

  MLLOSS_DEVICE void smooth(Chunk<T, V>& chunk) const {
    const T slope = static_cast<T>(call_.smooth_slope), floor = static_cast<T>(call_.smooth_floor);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const T y = chunk.soft ? chunk.y[i] : (chunk.positive >> i & 1u) ? T(1) : T(0);
      chunk.y[i] = y * slope + floor;
    }
    chunk.soft = true;
  }
};

}  // namespace cuda
}  // namespace mlloss
