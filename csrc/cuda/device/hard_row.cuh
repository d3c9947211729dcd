// A block's part of a row in registers, for calls without options: hard targets are bits, and logits need no change. A
// visit of the row calls a function for each of its elements.
#pragma once

#include "target_bits.cuh"

namespace mlloss {
namespace cuda {

template <Targets kTargets, class T>
MLLOSS_DEVICE Element<T, kTargets> element_of(T s, uint32_t mask, int i) {
  return {s, kTargets == Targets::kHard && (mask >> i & 1u) ? T(1) : T(0), T(1)};
}

// kDense: the targets are bool; otherwise they are CSR. kRolled: see each().
template <class In, bool kDense, bool kRolled>
class HardRow {
 public:
  static constexpr int V = kWidth<In>, K = kChunksPerThread;
  // The slopes of a chunk's elements take its 16 bytes: as floats, or times 2^16 in half precision. A slope is at most
  // 1/4, and the scale makes subnormal only those slopes that are too small to matter.
  static constexpr float kSlopeScale = V == 8 ? 65536.0f : 1.0f;

  MLLOSS_DEVICE HardRow(const DeviceCall& call, const TeamLaunch& launch, int rank, unsigned char* memory)
      : call_(call), launch_(launch), rank_(rank), bits_(call, launch.span, memory) {}

  // Three steps prepare row `next`: find() starts loads, whose latency the sums hide. prepare() follows the join of the
  // block. advance() follows the barrier after that. They prepare the block's first row too.
  MLLOSS_DEVICE void find(int next) {
    if (this_warp() == setter() && !kDense) bits_.find(next);
  }
  MLLOSS_DEVICE void prepare(int next, bool more) {
    MLLOSS_SHARED(Place, place, [1]);
    place_ = place;
    if (this_warp() == setter()) {
      const RowPart<In> part = part_of(next);
      if (more && !kDense) bits_.set(bits_.next(), next, part, launch_.span);
      if (this_lane() == 0) place[0] = {part.begin(), more ? part.count : 0};
    }
    const int first = clearer() * kWarpLanes, thread = static_cast<int>(threadIdx.x) - first;
    if (thread >= 0 && !kDense) bits_.clear(thread, static_cast<int>(blockDim.x) - first);
  }
  MLLOSS_DEVICE void advance(int next, bool more) {
    place(place_->begin, place_->count);
    load();
    if (more && has_edges()) load_edge(part_of(next));
    bits_.advance();
  }

  // Adds up f(element, slope) over the thread's elements. It is the first visit of a row. With kSlopes, f also sets the
  // slope, which replaces the logit.
  template <bool kSlopes, int N, class F>
  MLLOSS_DEVICE void first_sum(int row, Array<float, N>& sums, F f) {
    if constexpr (kDense) take_bools();
    each([&](auto kind, int, uint32_t mask, uint4& x) {
      float s[V], slope[V];
      unpack<In>(x, s);
      add(sums, sum_of<V>([&](int i) { return f(element_of<decltype(kind)::value>(s[i], mask, i), slope[i]); }));
      if constexpr (kSlopes) {
#pragma unroll
        for (int i = 0; i < V; ++i) slope[i] *= kSlopeScale;
        x = pack<Slope>(slope);
      }
    });
    float unused;
    with_edge(row, [&](auto e, int64_t) { add(sums, f(e, unused)); });
  }

  // Adds up f(element), which is 0 for negatives. It follows the first visit.
  template <int N, class F>
  MLLOSS_DEVICE void sum_of_positives(int row, Array<float, N>& sums, F f) {
    uint32_t any = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) any |= k * kWarpLanes < left_ ? bits_.mask(chunk_in_block(k)) : 0u;
    if (__any_sync(kAllLanes, any != 0)) {
      each_rarely([&](int, uint32_t mask, const float (&s)[V]) {
        if (mask == 0) return;
        add(sums, sum_of<V>([&](int i) { return f(element_of<Targets::kHard>(s[i], mask, i)); }));
      });
    }
    with_edge(row, [&](auto e, int64_t) { add(sums, f(e)); });
  }

  // Stores f(element) as the gradient, and of_edge(element) for an edge. With kSlopes, an element has its slope times
  // kSlopeScale in place of its logit; an edge keeps its logit.
  template <bool kSlopes, class F, class G>
  MLLOSS_DEVICE void gradient(int row, void* gradient, F f, G of_edge) {
    In* const memory = keep(static_cast<In*>(gradient) + at_);
    each([&](auto kind, int k, uint32_t mask, uint4& x) {
      float v[V], g[V];
      unpack<std::conditional_t<kSlopes, Slope, In>>(x, v);
#pragma unroll
      for (int i = 0; i < V; ++i) g[i] = f(element_of<decltype(kind)::value>(v[i], mask, i));
      store_once(memory + k * kWarpLanes * V, pack<In>(g));
    });
    store_edge(row, gradient, of_edge);
  }

  // The next two are visits for rare cases, in code that exists once for all elements: they take turns in s[0].
  template <class F>
  MLLOSS_DEVICE void rarely(int row, F f) {
    each_rarely([&](int, uint32_t mask, float (&s)[V]) {
#pragma unroll 1
      for (int i = 0; i < V; ++i) {
        f(element_of<Targets::kHard>(s[0], mask >> i, 0));
        rotate(s);
      }
    });
    with_edge(row, [&](auto e, int64_t) { f(e); });
  }
  template <class F>
  MLLOSS_DEVICE void gradient_rarely(int row, void* gradient, F f) {
    In* const memory = static_cast<In*>(gradient) + at_;
    each_rarely([&](int k, uint32_t mask, float (&s)[V]) {
#pragma unroll 1
      for (int i = 0; i < V; ++i) {
        s[0] = f(element_of<Targets::kHard>(s[0], mask >> i, 0));
        rotate(s);
      }
      store_once(memory + k * kWarpLanes * V, pack<In>(s));
    });
    store_edge(row, gradient, f);
  }

 private:
  using Slope = std::conditional_t<V == 8, __half, float>;

  struct alignas(16) Place {
    int64_t begin;
    int count;
  };

  const DeviceCall& call_;
  const TeamLaunch& launch_;
  const int rank_;
  TargetBits<In, kDense> bits_;
  const Place* place_ = nullptr;
  uint4 x_[K];
  Bools bools_[kDense ? K : 1];
  int64_t at_ = 0;  // the element that the thread's chunk 0 begins with
  int left_ = 0;    // chunk k exists if k * kWarpLanes < left_
  In edge_{};

  // Warp 0 joins, warp 1 sets bits, and the others clear bits. In a block of one or two warps, the last warp does the
  // work of the missing ones.
  static MLLOSS_DEVICE int setter() { return block_warps() < 2 ? 0 : 1; }
  static MLLOSS_DEVICE int clearer() { return block_warps() < 3 ? block_warps() - 1 : 2; }

  MLLOSS_DEVICE RowPart<In> part_of(int row) const { return {call_, row, rank_, launch_.span}; }
  MLLOSS_DEVICE bool has_edges() const { return rank_ == 0 && this_warp() == 0; }
  MLLOSS_DEVICE int chunk_in_block(int k) const {
    return this_warp() * launch_.warp_span + this_lane() + k * kWarpLanes;
  }

  MLLOSS_DEVICE void place(int64_t begin, int count) {
    const int rest = count - this_warp() * launch_.warp_span;
    left_ = (rest < launch_.warp_span ? rest : launch_.warp_span) - this_lane();
    at_ = begin + chunk_in_block(0) * V;
  }

  // Most warps have all K chunks, whose loads then need no conditions.
  MLLOSS_DEVICE void load() {
    if (__all_sync(kAllLanes, (K - 1) * kWarpLanes < left_)) {
      load_chunks(K * kWarpLanes);
    } else {
      load_chunks(left_);
    }
  }
  MLLOSS_DEVICE void load_chunks(int left) {
    if constexpr (kDense) {
      const unsigned char* const targets = static_cast<const unsigned char*>(call_.targets) + at_;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (k * kWarpLanes < left) bools_[k] = load_bools<V>(targets + k * kWarpLanes * V);
      }
    }
    const In* const logits = static_cast<const In*>(call_.logits) + at_;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (k * kWarpLanes < left) x_[k] = load_once<uint4>(logits + k * kWarpLanes * V);
    }
  }
  MLLOSS_DEVICE void load_edge(const RowPart<In>& part) {
    const int i = static_cast<int>(threadIdx.x);
    if (part.has_edge(call_, i)) edge_ = static_cast<const In*>(call_.logits)[part.edge(i)];
  }

  // Stores the dense targets, whose loads have arrived, as bits.
  MLLOSS_DEVICE void take_bools() const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (k * kWarpLanes < left_) bits_.set_mask(chunk_in_block(k), bits_of<V>(bools_[k]));
    }
  }
  // Calls f(kind, k, mask, x) for every chunk. kRolled: pairs of chunks take turns in two register sets, and the code
  // exists twice; otherwise it exists for each of the K chunks.
  template <class F>
  MLLOSS_DEVICE void each(F f) {
    if constexpr (kRolled) {
#pragma unroll 1
      for (int k = 0; k < K; k += 2) {
        with_chunk(k, x_[0], f);
        with_chunk(k + 1, x_[1], f);
        rotate(x_);
        rotate(x_);
      }
    } else {
#pragma unroll
      for (int k = 0; k < K; ++k) with_chunk(k, x_[k], f);
    }
  }

  // Calls f for chunk k, if the thread has one. A warp without positives takes a body of its own.
  template <class F>
  MLLOSS_DEVICE void with_chunk(int k, uint4& x, F f) {
    const bool there = k * kWarpLanes < left_;
    const uint32_t mask = there ? bits_.mask(chunk_in_block(k)) : 0u;
    if (__builtin_expect(!__any_sync(kAllLanes, !there || mask != 0), 1)) {
      f(std::integral_constant<Targets, Targets::kNegative>(), k, 0u, x);
    } else if (there) {
      f(std::integral_constant<Targets, Targets::kHard>(), k, mask, x);
    }
  }

  // Calls f(k, mask, logits) for every chunk, in code that exists once.
  template <class F>
  MLLOSS_DEVICE void each_rarely(F f) {
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      if (k * kWarpLanes < left_) {
        float s[V];
        unpack<In>(x_[0], s);
        f(k, bits_.mask(chunk_in_block(k)), s);
      }
      rotate(x_);
    }
  }

  // Calls f(element, its place) for the thread's edge, if it has one.
  template <class F>
  MLLOSS_DEVICE void with_edge(int row, F f) const {
    if (!has_edges()) return;
    const RowPart<In> part = part_of(row);
    const int i = static_cast<int>(threadIdx.x);
    if (!part.has_edge(call_, i)) return;
    const int64_t at = part.edge(i);
    f(element_of<Targets::kHard>(widen(edge_), bits_.edge(at) ? 1u : 0u, 0), at);
  }

  template <class F>
  MLLOSS_DEVICE void store_edge(int row, void* gradient, F f) const {
    with_edge(row, [&](auto e, int64_t at) { static_cast<In*>(gradient)[at] = narrow<In>(f(e)); });
  }
};

}  // namespace cuda
}  // namespace mlloss
