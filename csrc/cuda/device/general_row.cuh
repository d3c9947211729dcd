// A block's part of a row in registers, for calls with any options, targets and strides.
#pragma once

#include "chunk.cuh"
#include "loss_traits.h"
#include "row_results.cuh"

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

  // Adds every chunk to the sums of a visit, or stores its gradient. The chunks take turns in x_[0], so that the code
  // of the options exists once.
  MLLOSS_DEVICE void visit(int row, const Loss& loss, const SharedResults<Loss>& shared, VisitSums<Loss>& own,
                           void* gradient) {
    const LogitsRow<In> view(call_, row);
    reader_.start(row);
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      if (there(view, k)) {
        T x[V];
        unpack<In>(x_[0], x);
        const int label = view.label_of(first_ + k * kWarpLanes);
        const RowChunk<In> chunk = reader_.read(label, view.whole(label), x);
        if (own.visit == Visit::kSums || own.visit == Visit::kGradient) {
          with_kind(chunk, [&](auto kind, const RowChunk<In>&) {
            if (own.visit == Visit::kSums) {
              const auto of_element = [&](int i) { return loss.first_sums(prepared<Loss>(element(kind, chunk, i))); };
              add(own.stats.sums, sum_of<V>(of_element));
            } else {
              float g[V];
              form_gradient(kind, chunk, loss, shared, g);
              GradientRow<In>(view, gradient, row).store(kind, label, g);
            }
          });
        } else {
          add_rarely(chunk, loss, own);
        }
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

  static MLLOSS_DEVICE void add_rarely(RowChunk<In> chunk, const Loss& loss, VisitSums<Loss>& own) {
    // The term of a negative in second-pass sums is 0.
    if (own.visit == Visit::kSecondPassSums && !chunk.soft && chunk.positive == 0) return;
#pragma unroll 1
    for (int i = 0; i < V; ++i) {
      own.add_rarely(loss, general_element(chunk, 0));
      chunk.advance();
    }
  }

  template <class Kind>
  MLLOSS_DEVICE void form_gradient(Kind kind, const RowChunk<In>& chunk, const Loss& loss,
                                   const SharedResults<Loss>& shared, float* g) const {
    const auto c = shared.coefficients;
    const bool zero = shared.mode == RowMode::kZero;
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = zero ? 0.0f : loss.gradient(element(kind, chunk, i), c);
    reader_.finish_gradient(kind, chunk, false, g);
  }
};

}  // namespace cuda
}  // namespace mlloss
