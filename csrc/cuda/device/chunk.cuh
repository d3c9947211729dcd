// The chunks of a row, with the options of a call, and their elements.
#pragma once

#include "../../losses/functor.h"
#include "targets.cuh"

namespace mlloss {
namespace cuda {

// A chunk of a row in registers.
struct Fetched {
  int index;
  uint4 logits;
  Bools bools = {};  // its bool targets, if they were loaded with the logits
};

// The kinds of chunk that have a loop body of their own. kSoft serves all other chunks.
template <Targets kTargets, bool kWeighted>
struct ChunkKind {
  static constexpr bool kFastPath = !kWeighted;
  static constexpr bool kWholeAccess = false;
};

// A chunk without positives on the fast path, of a row whose gradient is stored with whole accesses.
struct NegativeKind : ChunkKind<Targets::kNegative, false> {
  static constexpr bool kWholeAccess = true;
};

template <class T, int V, class F>
MLLOSS_DEVICE void with_kind(const Chunk<T, V>& chunk, F f) {
  if (chunk.soft) {
    f(ChunkKind<Targets::kSoft, true>(), chunk);
  } else {
    f(ChunkKind<Targets::kHard, true>(), chunk);
  }
}

template <Targets kTargets, bool kWeighted, class T, int V>
MLLOSS_DEVICE Element<T, kTargets> element(ChunkKind<kTargets, kWeighted>, const Chunk<T, V>& chunk, int i) {
  const T hard = chunk.positive >> i & 1u ? T(1) : T(0);
  const T y = kTargets == Targets::kSoft ? chunk.y[i] : kTargets == Targets::kHard ? hard : T(0);
  return {chunk.s[i], y, kWeighted ? chunk.weight(i) : T(1)};
}

// Returns the label's parameter, for functors with kLabelParameter. Excluded lanes may lie outside the row.
template <class T, int V>
MLLOSS_DEVICE T label_parameter(const DeviceCall& call, const Chunk<T, V>& chunk, int i) {
  const T* all = static_cast<const T*>(call.label_parameter);
  return all && !(chunk.excluded >> i & 1u) ? all[chunk.label + i] : T(1);
}

// Returns an element of any kind of chunk in the most general form.
template <class T, int V>
MLLOSS_DEVICE Element<T, Targets::kSoft> general_element(const Chunk<T, V>& chunk, int i) {
  const T hard = chunk.positive >> i & 1u ? T(1) : T(0);
  return {chunk.s[i], chunk.soft ? chunk.y[i] : hard, chunk.weight(i)};
}

// Sets excluded numbers to exactly 0. Rows of weight 0 do not take the fast path.
template <class Kind, class T, int V>
MLLOSS_DEVICE void clear_excluded(Kind, const Chunk<T, V>& chunk, bool zero_row, T* g) {
  if constexpr (!Kind::kFastPath) {
    if (chunk.excluded == 0 && !zero_row) return;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (zero_row || (chunk.excluded >> i & 1u)) g[i] = T(0);
    }
  }
}

// Applies the options of a call to logits, targets and gradients, one row at a time.
template <class Loss, class T, int V>
class ChunkReader {
 public:
  static constexpr bool kSoftmaxOverLabels = Loss::kSoftmaxOverLabels, kSecondLogits = Loss::kSecondLogits;

  MLLOSS_DEVICE explicit ChunkReader(const DeviceCall& call) : call_(call), targets_(call) {
    scale_ = call.logit_scale ? *static_cast<const T*>(call.logit_scale) : static_cast<T>(call.scale);
  }

  MLLOSS_DEVICE T scale() const { return scale_; }
  MLLOSS_DEVICE CsrRow entries() const { return targets_.entries(); }
  // Returns to the row's first label.
  MLLOSS_DEVICE void rewind() { targets_.rewind(); }

  MLLOSS_DEVICE void start(int64_t row) {
    targets_.start(row);
    offset_ = static_cast<T>(call_.offset);
    if (call_.row_offset) offset_ += static_cast<const T*>(call_.row_offset)[row * call_.row_offset_stride];
    plain_ = scale_ == T(1) && offset_ == T(0) && !call_.label_offset;
  }

  // Reads the chunk at `label`. `x` has the logits of the lanes inside the row, which are all lanes if `whole`; the
  // other lanes are ignored. Labels must not decrease from call to call.
  MLLOSS_DEVICE Chunk<T, V> read(int label, bool whole, const T* x) {
    Chunk<T, V> chunk;
    chunk.label = label;
#pragma unroll
    for (int i = 0; i < V; ++i) chunk.s[i] = x[i];
    targets_.read(chunk, whole);
    if (!plain_) transform(chunk);
    if (!whole) exclude_outside(chunk);
    if (chunk.invalid) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (chunk.invalid >> i & 1u) chunk.s[i] = static_cast<T>(NAN);
      }
    }
    if constexpr (kSecondLogits) {
#pragma unroll
      for (int i = 0; i < V; ++i) chunk.y[i] *= scale_;
    }
    chunk.weights = call_.weight ? static_cast<const T*>(call_.weight) + label : nullptr;
    if (chunk.excluded || chunk.weights) neutralise(chunk);
    return chunk;
  }

  // Finishes the gradients of a chunk before they are summed and stored. All gradients pass here, except those on the
  // fast path, which no option changes.
  template <class Kind>
  MLLOSS_DEVICE void finish_gradient(Kind kind, const Chunk<T, V>& chunk, bool zero_row, T* g) const {
    clear_excluded(kind, chunk, zero_row, g);
  }

 private:
  const DeviceCall& call_;
  TargetReader<T, V, kSecondLogits> targets_;
  T scale_, offset_;
  bool plain_;  // the logits need no scale and no offsets

  MLLOSS_DEVICE void transform(Chunk<T, V>& chunk) const {
    const T* label_offset = static_cast<const T*>(call_.label_offset);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      T offset = offset_;
      if (label_offset && call_.inside(chunk.label + i)) offset += label_offset[chunk.label + i];
      chunk.s[i] = chunk.s[i] * scale_ + offset;
    }
  }

  MLLOSS_DEVICE void exclude_outside(Chunk<T, V>& chunk) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (!call_.inside(chunk.label + i)) chunk.excluded |= 1u << i;
    }
  }

  // An excluded element must not influence results, even if its logit is NaN.
  MLLOSS_DEVICE void neutralise(Chunk<T, V>& chunk) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const bool out = kSoftmaxOverLabels ? (chunk.excluded >> i & 1u) != 0 : chunk.weight(i) == T(0);
      if (out) chunk.excluded |= 1u << i;
      chunk.s[i] = out ? (kSoftmaxOverLabels ? T(-INFINITY) : T(0)) : chunk.s[i];
      if (chunk.soft) chunk.y[i] = out ? T(0) : chunk.y[i];
    }
    chunk.positive &= ~chunk.excluded;
  }
};

template <class Loss, class In>
using RowReader = ChunkReader<Loss, Compute<In>, kWidth<In>>;
template <class In>
using RowChunk = Chunk<Compute<In>, kWidth<In>>;

// Reads a chunk in the most general form. This code is large, so only loops that are not unrolled call it.
template <class In, class Reader>
MLLOSS_DEVICE RowChunk<In> read_chunk(Reader& reader, const LogitsRow<In>& row, const Fetched& fetched) {
  Compute<In> x[kWidth<In>];
  unpack<In>(fetched.logits, x);
  const int label = row.label_of(fetched.index);
  return reader.read(label, row.whole(label), x);
}

// Returns a chunk of hard targets on the fast path.
template <class In>
MLLOSS_DEVICE RowChunk<In> fast_chunk(int label, uint4 logits, uint32_t positive) {
  RowChunk<In> chunk;
  chunk.label = label;
  chunk.positive = positive;
  unpack<In>(logits, chunk.s);
  return chunk;
}

// Returns the reduction's factor of every value and gradient.
template <class T>
MLLOSS_DEVICE T call_factor(const DeviceCall& call) {
  const T factor = static_cast<T>(call.factor);
  return call.normalizer ? factor / *static_cast<const T*>(call.normalizer) : factor;
}

template <class T>
MLLOSS_DEVICE T sample_weight(const DeviceCall& call, int64_t row) {
  return call.sample_weight ? static_cast<const T*>(call.sample_weight)[row] : T(1);
}

}  // namespace cuda
}  // namespace mlloss
