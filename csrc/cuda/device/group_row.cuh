// A row of a group loss, or a tile of one: statistics, value, coefficients.
#pragma once

#include "arrival.cuh"
#include "feed.cuh"

namespace mlloss {
namespace cuda {

template <template <class> class LossTemplate, class In>
class GroupRow {
 public:
  using T = Compute<In>;
  using Loss = LossTemplate<T>;
  using Sums = Array<T, Loss::kSums>;
  using SecondSums = SecondPassSums<Loss, T>;
  using Coefficients = Array<T, Loss::kCoefficients>;
  static constexpr int V = kWidth<In>;

  MLLOSS_DEVICE GroupRow(const DeviceCall& call, const ForwardOutputs& out)
      : call_(call), out_(out), loss_(call.parameters.values), reader_(call) {}

  MLLOSS_DEVICE void start(int64_t row) {
    row_ = row;
    reader_.start(row);
  }

  // Returns the statistics of the tile's chunks to all threads of the block.
  MLLOSS_DEVICE StatisticsOf<Loss, T> statistics(const LogitsRow<In>& row, const Tile<In>& tile) {
    StatisticsOf<Loss, T> stats{};
    const Sums sums = thread_sums(row, tile);
    stats.sums = block_sum(sums);
    // A redo is rare. All threads take the same branch, because they have the same sums.
    if constexpr (Loss::kMaxima > 0) {
      if (loss_.needs_max_shift(stats.sums)) {
        redo(row, tile, stats);
      } else {
        stats.maxima = Loss::first_maxima(stats.sums);
      }
    }
    return stats;
  }

  // Returns this thread's sums with the maxima at 0.
  MLLOSS_DEVICE Sums thread_sums(const LogitsRow<In>& row, const Tile<In>& tile) {
    Sums total = identity<Loss, T>().sums;
    tile.run(reader_, row, true, [&](auto kind, const RowChunk<In>& chunk, uint4) {
      Sums sums = identity<Loss, T>().sums;
#pragma unroll
      for (int j = 0; j < V; ++j) add(sums, loss_.first_sums(element(kind, chunk, j)));
      add(total, sums);
    });
    return total;
  }

  // Returns second-pass sums from another visit of the tile's chunks, with the row's complete statistics. Chunks
  // without positives contribute nothing.
  MLLOSS_DEVICE SecondSums second_pass_sums(const LogitsRow<In>& row, const Tile<In>& tile,
                                            const StatisticsOf<Loss, T>& stats) {
    SecondSums total{};
    const auto input = Loss::second_pass_input(stats);
    reader_.start(row_);
    tile.run(reader_, row, true, [&](auto kind, const RowChunk<In>& chunk, uint4) {
      if constexpr (!decltype(element(kind, chunk, 0))::kNegative) {
        add(total, sum_of<V>([&](int i) { return loss_.second_pass_sums(element(kind, chunk, i), input); }));
      }
    });
    return block_sum(total);
  }

  // Computes value and coefficients, which thread 0 stores. It gets the value for the total.
  MLLOSS_DEVICE T finalize(const StatisticsOf<Loss, T>& stats, const SecondSums& second_sums) const {
    T value;
    const Coefficients c = mlloss::finalize<Loss, T>(loss_, stats, second_sums, value);
    if (threadIdx.x != 0) return T(0);
    return store_results<T>(out_, c, value, sample_weight<T>(call_, row_), call_.rows, row_);
  }

  // Computes and stores value and coefficients of the whole batch, to which no row's weight applies.
  MLLOSS_DEVICE void finalize_all(const StatisticsOf<Loss, T>& stats) const {
    T value;
    const Coefficients c = loss_.finalize(stats, value);
    if (threadIdx.x != 0) return;
    store_results<T>(out_, c, value, T(1), 1, 0);
    if (out_.total) *static_cast<T*>(out_.total) = value * call_factor<T>(call_);
  }

 private:
  const DeviceCall& call_;
  const ForwardOutputs& out_;
  const Loss loss_;
  RowReader<Loss, In> reader_;
  int64_t row_;

  // Takes the maxima, then the sums with these maxima. This is rare, so labels are read one by one by little code.
  MLLOSS_DEVICE void redo(const LogitsRow<In>& row, const Tile<In>& tile, StatisticsOf<Loss, T>& stats) {
    Sums total = identity<Loss, T>().sums;
    stats.maxima = identity<Loss, T>().maxima;
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
      ChunkReader<Loss, T, 1> reader(call_);
      reader.start(row_);
      tile.each_label([&](int label) {
        const T logit[1] = {row.logit(label)};
        const auto e = general_element(reader.read(label, true, logit), 0);
        if (pass == 0) {
          loss_.maxima(e, stats.maxima);
        } else {
          add(total, loss_.sums(e, stats.maxima));
        }
      });
      if (pass == 0) stats.maxima = block_maximum(stats.maxima, Loss::initial_maximum());
    }
    stats.sums = block_sum(total);
  }
};

}  // namespace cuda
}  // namespace mlloss
