// A block's part of a row in registers, for calls with any options, targets and strides. It has the visits of HardRow.
#pragma once

#include "chunk.cuh"
#include "hard_row.cuh"

namespace mlloss {
namespace cuda {

template <class Loss, class In>
class GeneralRow {
 public:
  using T = Compute<In>;
  static constexpr bool kIsHard = false;
  static constexpr int V = kWidth<In>, K = kGeneralChunks;

  MLLOSS_DEVICE GeneralRow(const DeviceCall& call, const TeamLaunch& launch, int rank, unsigned char*)
      : call_(call),
        reader_(call),
        first_(rank * launch.span + warp() * launch.warp_span + lane()),
        count_(launch.warp_span - lane()) {}

  MLLOSS_DEVICE T scale() const { return reader_.scale(); }

  MLLOSS_DEVICE void begin(int row) { load(row); }
  MLLOSS_DEVICE void find(int) {}
  MLLOSS_DEVICE void prepare(int, bool) {}
  MLLOSS_DEVICE void advance(int next, bool more) {
    if (more) load(next);
  }

  template <int N, class F>
  MLLOSS_DEVICE void first_sum(int row, Array<T, N>& sums, F f) {
    each(row, [&](const RowChunk<In>& chunk) {
      with_kind(chunk, [&](auto kind, const RowChunk<In>&) {
        Array<T, N> of_chunk = f(element(kind, chunk, 0));
#pragma unroll
        for (int i = 1; i < V; ++i) add(of_chunk, f(element(kind, chunk, i)));
        add(sums, of_chunk);
      });
    });
  }
  template <int N, class F>
  MLLOSS_DEVICE void sum_of_positives(int row, Array<T, N>& sums, F f) {
    rarely(row, [&](auto e) { add(sums, f(e)); });
  }

  template <class F>
  MLLOSS_DEVICE void gradient(int row, void* gradient, F f) {
    const LogitsRow<In> view(call_, row);
    const GradientRow<In> memory(view, gradient, row);
    each(row, [&](const RowChunk<In>& chunk) {
      with_kind(chunk, [&](auto kind, const RowChunk<In>&) {
        T g[V];
#pragma unroll
        for (int i = 0; i < V; ++i) g[i] = f(element(kind, chunk, i));
        clear_excluded(kind, chunk, false, g);
        memory.store(kind, chunk.label, g);
      });
    });
  }

  template <class F>
  MLLOSS_DEVICE void rarely(int row, F f) {
    each(row, [&](const RowChunk<In>& chunk) {
#pragma unroll
      for (int i = 0; i < V; ++i) f(general_element(chunk, i));
    });
  }

 private:
  const DeviceCall& call_;
  RowReader<Loss, In> reader_;
  const int first_, count_;  // the thread's chunk 0; its chunk k exists if k * kWarpLanes < count_
  uint4 x_[K];

  static MLLOSS_DEVICE int warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
  static MLLOSS_DEVICE int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }

  MLLOSS_DEVICE bool there(const LogitsRow<In>& view, int k) const {
    return k * kWarpLanes < count_ && first_ + k * kWarpLanes < view.chunks;
  }

  MLLOSS_DEVICE void load(int row) {
    const LogitsRow<In> view(call_, row);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (there(view, k)) x_[k] = view.load(view.label_of(first_ + k * kWarpLanes));
    }
  }

  // Calls f(chunk) for every chunk. The chunks take turns in x_[0], so that the code of the options exists once.
  template <class F>
  MLLOSS_DEVICE void each(int row, F f) {
    const LogitsRow<In> view(call_, row);
    reader_.start(row);
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      if (there(view, k)) {
        T x[V];
        unpack<In>(x_[0], x);
        const int label = view.label_of(first_ + k * kWarpLanes);
        f(reader_.read(label, view.whole(label), x));
      }
      rotate(x_);
    }
  }
};

}  // namespace cuda
}  // namespace mlloss
