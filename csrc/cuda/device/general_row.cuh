// A block's part of a row in registers, for calls with any options, targets and strides.
#pragma once

#include "chunk.cuh"
#include "team_join.cuh"

namespace mlloss {
namespace cuda {

template <class Loss, class In>
class GeneralRow {
 public:
  using T = Compute<In>;
  static constexpr int V = kWidth<In>, K = kGeneralChunks;

  MLLOSS_DEVICE GeneralRow(const DeviceCall& call, const TeamLaunch& launch, int rank)
      : call_(call),
        reader_(call),
        first_(rank * launch.span + this_warp() * launch.warp_span + this_lane()),
        count_(launch.warp_span - this_lane()) {}

  MLLOSS_DEVICE T scale() const { return reader_.scale(); }

  MLLOSS_DEVICE void load(int row) {
    const LogitsRow<In> view(call_, row);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (there(view, k)) x_[k] = view.load(view.label_of(first_ + k * kWarpLanes));
    }
  }

  // Calls f(view, chunk) for every chunk. The chunks take turns in x_[0], so that the code of the options exists once.
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
        f(view, reader_.read(label, view.whole(label), x));
      }
      rotate(x_);
    }
  }

 private:
  const DeviceCall& call_;
  RowReader<Loss, In> reader_;
  const int first_, count_;  // the thread's chunk 0; its chunk k exists if k * kWarpLanes < count_
  uint4 x_[K];

  MLLOSS_DEVICE bool there(const LogitsRow<In>& view, int k) const {
    return k * kWarpLanes < count_ && first_ + k * kWarpLanes < view.chunks;
  }
};

}  // namespace cuda
}  // namespace mlloss
