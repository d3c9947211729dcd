// The chunks of a tile. They pass through registers: a thread loads all chunks of a trip before it uses the first.
//
// A trip of a warp is 32 K adjacent chunks. Chunk k of lane i is number 32 k + i, so the addresses of a trip differ by
// constants.
#pragma once

#include "chunk.cuh"

namespace mlloss {
namespace cuda {

// The number of chunks of a thread whose loads are in flight together.
template <class In>
constexpr int kTripChunks = sizeof(In) == 4 ? 4 : 2;

template <class In>
struct Trip {
  static constexpr int V = kWidth<In>, K = kTripChunks<In>;

  int first_label;  // of the thread's first chunk
  uint4 logits[K];
  Bools bools[K];

  MLLOSS_DEVICE int label(int k) const { return first_label + k * kWarpLanes * V; }
};

// The hard targets of a warp's trips on the fast path, from left to right. All lanes call each function together.
template <class In>
class FastTargets {
 public:
  static constexpr int V = kWidth<In>;

  template <class Reader>
  MLLOSS_DEVICE FastTargets(const Reader& reader, const LogitsRow<In>& row, int first_label)
      : entries_(reader.entries(), row.fast() && !row.bools, first_label) {}

  // True if no label of the warp's trip is positive. The argument is a trip with its bool targets or, for CSR, the
  // first label of the trip.
  MLLOSS_DEVICE bool none(const Trip<In>& trip) const {
    uint32_t any = 0;
#pragma unroll
    for (int k = 0; k < Trip<In>::K; ++k) any |= trip.bools[k].x | trip.bools[k].y;
    return !__any_sync(kAllLanes, any != 0);
  }
  MLLOSS_DEVICE bool none(int label) { return entries_.none(label, Trip<In>::K * kWarpLanes * V); }

  // Returns the positives of each lane's next chunk; `label` is the first lane's first label.
  MLLOSS_DEVICE uint32_t take(const LogitsRow<In>& row, Bools bools, int label) {
    return row.bools ? bits_of<V>(bools) : entries_.template take<V>(label);
  }

 private:
  WarpEntries entries_;
};

// Some chunks of a row, for all threads of a block.
template <class In>
class Tile {
 public:
  static constexpr int V = kWidth<In>, K = kTripChunks<In>, kWarpChunks = K * kWarpLanes;

  // Makes tile `tile` of `tiles` with `chunks` of the row's whole chunks each. The first tile also has the chunk in
  // which the row starts, and the last tile the one in which it ends, if these are not whole. `unit` differs among the
  // tiles of a block; its hash selects the warp that begins, so that no warp always has more trips than others.
  MLLOSS_DEVICE Tile(const LogitsRow<In>& row, int tile, int tiles, int chunks, uint32_t unit) {
    const int start = row.whole_first + tile * chunks;
    first_ = start < row.whole_last ? start : row.whole_last;
    const int rest = row.whole_last - first_;
    last_ = first_ + (rest < chunks ? rest : chunks);
    const int head = tile == 0 && row.whole_first > 0 ? 0 : kNone;
    const int tail = tile == tiles - 1 && row.chunks > row.whole_last ? row.chunks - 1 : kNone;
    edge_ = this_lane() == 0 ? head : this_lane() == 1 ? tail : kNone;
    begin_ = tile == 0 ? 0 : row.label_of(first_);
    end_ = static_cast<unsigned>(row.call.labels);
    const unsigned next = static_cast<unsigned>(row.label_of(last_));
    if (tile < tiles - 1 && next < end_) end_ = next;
    trips_ = whole_trips() + (head != kNone || tail != kNone ? 1 : 0);
    first_trip_ = (this_warp() + static_cast<int>(unit * 0x9e3779b1u >> 27)) & (block_warps() - 1);  // a power of two
  }

  // Calls f(label) for labels of the tile one by one, from left to right; each label falls to one thread.
  template <class F>
  MLLOSS_DEVICE void each_label(F f) const {
#pragma unroll 1
    for (unsigned label = static_cast<unsigned>(begin_) + threadIdx.x; label < end_; label += blockDim.x) {
      f(static_cast<int>(label));
    }
  }

  // Calls f(kind, chunk, logits) for each of this thread's chunks. `reader` is at the start of the row. With
  // `in_trips`, which is true if the row's gradient needs no narrow access, trips without positives on the fast path
  // are of NegativeKind.
  template <class Reader, class F>
  MLLOSS_DEVICE void run(Reader& reader, const LogitsRow<In>& row, bool in_trips, F f) const {
    run(reader, row, in_trips, f, [&](const Trip<In>& trip) {
#pragma unroll
      for (int k = 0; k < K; ++k) f(NegativeKind(), fast_chunk<In>(trip.label(k), trip.logits[k], 0u), trip.logits[k]);
      return true;
    });
  }

  // Calls negatives(trip) for such trips, and f as above for all others. negatives(trip) may return false, to all lanes
  // of a warp; f is then called for the trip's chunks after all.
  template <class Reader, class F, class Negatives>
  MLLOSS_DEVICE void run(Reader& reader, const LogitsRow<In>& row, bool in_trips, F f, Negatives negatives) const {
    if (first_trip_ >= trips_) return;
    if constexpr (std::is_same_v<In, double>) {
      return run_generally(reader, row, f);
    } else {
      run_fast(reader, row, in_trips, f, negatives);
    }
  }

 private:
  static constexpr int kNone = -1;
  int first_, last_;  // whole chunks
  int begin_;         // the first label
  unsigned end_;      // the label behind the last one
  int edge_;          // the lane's partial chunk, which is in the last trip; or kNone
  int trips_, first_trip_;

  // float64 serves checks of gradients rather than training, so all of its chunks have the general form, in little
  // code.
  template <class Reader, class F>
  MLLOSS_DEVICE void run_generally(Reader& reader, const LogitsRow<In>& row, F f) const {
#pragma unroll 1
    for (int number = first_trip_; number < trips_; number += block_warps()) {
      const bool edge = number == whole_trips();
      if (edge) reader.rewind();
#pragma unroll 1
      for (int k = 0; k < (edge ? 1 : K); ++k) {
        const int index = index_of(number, k);
        if (index == kNone) continue;
        const Fetched fetched{index, row.load(row.label_of(index))};
        with_kind(read_chunk<In>(reader, row, fetched),
                  [&](auto kind, const RowChunk<In>& chunk) { f(kind, chunk, fetched.logits); });
      }
    }
  }

  template <class Reader, class F, class Negatives>
  MLLOSS_DEVICE void run_fast(Reader& reader, const LogitsRow<In>& row, bool in_trips, F f, Negatives negatives) const {
    FastTargets<In> targets(reader, row, row.label_of(first_ + first_trip_ * kWarpChunks));
    // The number of trips that have all of their chunks and may take the fast path.
    const int fast = row.fast() && in_trips ? (last_ - first_) / kWarpChunks : 0;
    int number = first_trip_;
#pragma unroll 1
    while (true) {
      if (row.bools) {
        number = fast_trips<true>(row, targets, number, fast, negatives);
      } else {
        number = fast_trips<false>(row, targets, number, fast, negatives);
      }
      if (number >= trips_) return;
      one_by_one(reader, row, targets, number, f);
      number += block_warps();
    }
  }

  // Returns the number of trips with whole chunks. One trip more may have partial chunks.
  MLLOSS_DEVICE int whole_trips() const { return (last_ - first_ + kWarpChunks - 1) / kWarpChunks; }

  // Returns the lane's chunk, or kNone.
  MLLOSS_DEVICE int index_of(int trip, int k) const {
    if (trip == whole_trips()) return k > 0 ? kNone : edge_;
    const int index = first_ + trip * kWarpChunks + k * kWarpLanes + this_lane();
    return index < last_ ? index : kNone;
  }

  // Processes trips from `number` to `last` - 1, and returns the first one that has positives or needs f for another
  // reason.
  template <bool kBools, class Negatives>
  MLLOSS_DEVICE int fast_trips(const LogitsRow<In>& row, FastTargets<In>& targets, int number, int last,
                               Negatives negatives) const {
#pragma unroll 1
    for (; number < last; number += block_warps()) {
      const int index = first_ + number * kWarpChunks + this_lane();
      const Trip<In> trip = load<kBools>(row, index);
      const bool none = kBools ? targets.none(trip) : targets.none(trip.first_label - this_lane() * V);
      if (!none || !negatives(trip)) break;
    }
    return number;
  }

  // Starts to load a trip of whole chunks.
  template <bool kBools>
  static MLLOSS_DEVICE Trip<In> load(const LogitsRow<In>& row, int index) {
    Trip<In> trip;
    trip.first_label = row.label_of(index);
    const In* logits = row.logits_of(index);
#pragma unroll
    for (int k = 0; k < K; ++k) trip.logits[k] = load_once<uint4>(logits + k * kWarpLanes * V);
    if constexpr (kBools) {
      const unsigned char* bools = row.bools_at(index);
#pragma unroll
      for (int k = 0; k < K; ++k) trip.bools[k] = load_bools<V>(bools + k * kWarpLanes * V);
    }
    return trip;
  }

  // Starts to load a whole chunk, unless it is kNone.
  static MLLOSS_DEVICE Fetched load_one(const LogitsRow<In>& row, int index) {
    Fetched fetched{index, uint4{0, 0, 0, 0}};
    if (index == kNone) return fetched;
    if (row.adjacent()) fetched.logits = load_once<uint4>(row.logits_of(index));
    if (row.bools) fetched.bools = load_bools<V>(row.bools_at(index));
    return fetched;
  }

  // Calls f for the chunks of a trip, one after the other.
  template <class Reader, class F>
  MLLOSS_DEVICE void one_by_one(Reader& reader, const LogitsRow<In>& row, FastTargets<In>& targets, int number,
                                F f) const {
    const bool edge = number == whole_trips(), fast = row.fast() && !edge;
    if (edge) reader.rewind();
#pragma unroll 1
    for (int k = 0; k < (edge ? 1 : K); ++k) {
      Fetched fetched{index_of(number, k), uint4{0, 0, 0, 0}};
      if (!edge) {
        fetched = load_one(row, fetched.index);
        // Rows with options have no trips that are loaded at once, so the warp's next trip is prefetched.
        const int later = fetched.index + block_warps() * kWarpChunks;
        if (!row.fast() && row.adjacent() && later < last_) prefetch(row.logits_of(later));
      }
      const bool mine = fetched.index != kNone;
      uint32_t positive = 0;
      bool any = true;
      if (fast) {
        positive = targets.take(row, fetched.bools, row.label_of(first_ + number * kWarpChunks + k * kWarpLanes));
        any = __any_sync(kAllLanes, mine && positive != 0);
      }
      if (!mine) continue;
      const int label = row.label_of(fetched.index);
      if (edge || !row.adjacent()) fetched.logits = row.gather(label);
      const auto visitor = [&](auto kind, const RowChunk<In>& chunk) { f(kind, chunk, fetched.logits); };
      if (!any) {
        visitor(ChunkKind<Targets::kNegative, false>(), fast_chunk<In>(label, fetched.logits, 0u));
      } else if (fast && !row.call.values) {
        visitor(ChunkKind<Targets::kHard, false>(), fast_chunk<In>(label, fetched.logits, positive));
      } else {
        with_kind(read_chunk<In>(reader, row, fetched), visitor);
      }
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
