// The chunks of a tile, which pass through registers: a thread loads those of a trip before it uses the first.
//
// A trip of a warp is 32 K adjacent chunks. Chunk k of lane i is number 32 k + i, so the addresses of a trip differ by
// constants.
#pragma once

#include "chunk.cuh"

namespace mlloss {
namespace cuda {

// The chunks of a thread that are in flight together.
template <class In>
constexpr int kTripChunks = 2;

template <class In>
struct Trip {
  static constexpr int K = kTripChunks<In>;

  int index;  // of the thread's first chunk
  uint4 logits[K];
  Bools bools[K];

  // Drops the first chunk.
  MLLOSS_DEVICE void advance() {
    index += kWarpLanes;
#pragma unroll
    for (int k = 0; k + 1 < K; ++k) {
      logits[k] = logits[k + 1];
      bools[k] = bools[k + 1];
    }
  }
};

// Hard targets on the fast path, of a warp's trips from left to right. All lanes call each function together.
template <class In>
class FastTargets {
 public:
  static constexpr int V = kWidth<In>;

  template <class Reader>
  MLLOSS_DEVICE FastTargets(const Reader& reader, const LogitsRow<In>& row, int first_label)
      : sparse_(row.fast() && !row.bools), entries_(reader.entries(), sparse_, first_label) {}

  // True if no label of the trip, whose first label is `label`, is positive.
  MLLOSS_DEVICE bool none(const Trip<In>& trip, int label) {
    if (sparse_) return entries_.none(label, Trip<In>::K * kWarpLanes * V);
    uint32_t any = 0;
#pragma unroll
    for (int k = 0; k < Trip<In>::K; ++k) any |= trip.bools[k].x | trip.bools[k].y;
    return !__any_sync(kAllLanes, any != 0);
  }

  // Returns the positives of each lane's next chunk; `label` is the first lane's first label.
  MLLOSS_DEVICE uint32_t take(const Trip<In>& trip, int label) {
    return sparse_ ? entries_.template take<V>(label) : bits_of<V>(trip.bools[0]);
  }

 private:
  const bool sparse_;
  WarpEntries entries_;
};

// Some chunks of a row, for all threads of a block.
template <class In>
class Tile {
 public:
  static constexpr int V = kWidth<In>, K = kTripChunks<In>, kWarpChunks = K * kWarpLanes;

  // Tile number `tile` of `tiles` with `chunks` of the row's whole chunks each. The first tile also has the chunk in
  // which the row starts, and the last one that in which it ends, if these are not whole. `turn` says which warp is
  // next, so that no warp of the block always gets more than others.
  MLLOSS_DEVICE Tile(const LogitsRow<In>& row, int tile, int tiles, int chunks, int& turn) {
    first_ = row.whole_first + tile * chunks;
    const int rest = row.whole_last - first_;
    last_ = first_ + (rest < 0 ? 0 : rest < chunks ? rest : chunks);
    head_ = tile == 0 && row.whole_first > 0 ? 0 : kNone;
    tail_ = tile == tiles - 1 && row.chunks > row.whole_last ? row.chunks - 1 : kNone;
    edges_ = (last_ - first_ + kWarpChunks - 1) / kWarpChunks;
    trips_ = edges_ + (head_ != kNone || tail_ != kNone ? 1 : 0);
    const int warps = static_cast<int>(blockDim.x) / kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
    first_trip_ = (warp - turn) & (warps - 1);  // a power of two
    turn += trips_;
  }

  // Calls f(Fetched) for each of this thread's chunks, in any order. One is loaded at a time.
  template <class F>
  MLLOSS_DEVICE void each(const LogitsRow<In>& row, F f) const {
#pragma unroll 1
    for (int trip = first_trip_; trip < trips_; trip += warps()) {
#pragma unroll 1
      for (int k = 0; k < K; ++k) {
        const int index = index_of(trip, k);
        if (index != kNone) f(Fetched{index, row.load(row.label_of(index))});
      }
    }
  }

  // Calls f(kind, chunk, logits) for each of this thread's chunks. `reader` is at the start of the row. whole_accesses:
  // as in GradientRow, or true if no gradient is stored.
  template <class Reader, class F>
  MLLOSS_DEVICE void run(Reader& reader, const LogitsRow<In>& row, bool whole_accesses, F f) const {
    run(reader, row, whole_accesses, f, [&](const Trip<In>& trip) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int label = row.label_of(trip.index) + k * kWarpLanes * V;
        f(NegativeKind(), fast_chunk<In>(label, trip.logits[k], 0u), trip.logits[k]);
      }
      return true;
    });
  }

  // Does the same, but calls negatives(trip) for a trip without positives on the fast path. If it returns false to a
  // lane, then f is called for the chunks of the warp's trip after all.
  template <class Reader, class F, class Negatives>
  MLLOSS_DEVICE void run(Reader& reader, const LogitsRow<In>& row, bool whole_accesses, F f,
                         Negatives negatives) const {
    FastTargets<In> targets(reader, row, row.label_of(first_ + first_trip_ * kWarpChunks));
    const int fast_trips = row.fast() && whole_accesses ? (last_ - first_) / kWarpChunks : 0;
#pragma unroll 1
    for (int number = first_trip_; number < trips_; number += warps()) {
      Trip<In> trip = load(row, number);
      const int label = row.label_of(first_ + number * kWarpChunks);
      if (number < fast_trips && targets.none(trip, label) && !__any_sync(kAllLanes, !negatives(trip))) continue;
      one_by_one(reader, row, targets, number, trip, f);
    }
  }

 private:
  static constexpr int kNone = -1;
  int first_, last_;  // whole chunks
  int head_, tail_;   // chunks that lie in the row partly, or kNone
  int edges_;         // the number of the trip with these; other trips come before it
  int trips_, first_trip_;

  static MLLOSS_DEVICE int warps() { return static_cast<int>(blockDim.x) / kWarpLanes; }
  static MLLOSS_DEVICE int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }

  // Returns the lane's chunk, or kNone.
  MLLOSS_DEVICE int index_of(int trip, int k) const {
    if (trip == edges_) return k > 0 ? kNone : lane() == 0 ? head_ : lane() == 1 ? tail_ : kNone;
    const int index = first_ + trip * kWarpChunks + k * kWarpLanes + lane();
    return index < last_ ? index : kNone;
  }

  // Starts to load a trip. Chunks that are not whole, or not adjacent, are loaded at their use.
  MLLOSS_DEVICE Trip<In> load(const LogitsRow<In>& row, int number) const {
    Trip<In> trip;
    trip.index = first_ + number * kWarpChunks + lane();
    const int count = row.adjacent() ? last_ - trip.index : 0;
    const In* logits = row.logits_of(trip.index);
    if (count > (K - 1) * kWarpLanes) {
#pragma unroll
      for (int k = 0; k < K; ++k) trip.logits[k] = load_once<uint4>(logits + k * kWarpLanes * V);
    } else {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        if (k * kWarpLanes < count) trip.logits[k] = load_once<uint4>(logits + k * kWarpLanes * V);
      }
    }
    if (!row.bools) return trip;
    const unsigned char* bools = row.bools_at(trip.index);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      trip.bools[k] = k * kWarpLanes < count ? load_bools<V>(bools + k * kWarpLanes * V) : Bools{};
    }
    return trip;
  }

  template <class Reader, class F>
  MLLOSS_DEVICE void one_by_one(Reader& reader, const LogitsRow<In>& row, FastTargets<In>& targets, int number,
                                Trip<In>& trip, F f) const {
    const bool edge = number == edges_, fast = row.fast() && !edge;
    if (edge) reader.rewind();
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      const int index = index_of(number, k);
      const bool mine = index != kNone;
      uint32_t positive = 0;
      bool any = true;
      if (fast) {
        positive = targets.take(trip, row.label_of(trip.index - lane()));
        any = __any_sync(kAllLanes, mine && positive != 0);
      }
      if (mine) {
        const auto visitor = [&](auto kind, const RowChunk<In>& chunk) { f(kind, chunk, trip.logits[0]); };
        const int label = row.label_of(index);
        if (edge || !row.adjacent()) trip.logits[0] = row.gather(label);
        if (!any) {
          visitor(ChunkKind<Targets::kNegative, false>(), fast_chunk<In>(label, trip.logits[0], 0u));
        } else if (fast && !row.call.values) {
          visitor(ChunkKind<Targets::kHard, false>(), fast_chunk<In>(label, trip.logits[0], positive));
        } else {
          with_kind(read_chunk<In>(reader, row, {index, trip.logits[0]}), visitor);
        }
      }
      trip.advance();
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
