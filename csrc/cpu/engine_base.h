// The common part of the engines for one loss and for sums of losses: units, factors, and the place of a gradient.
#pragma once

#include <cstdlib>

#include "kernels.h"
#include "tile_math.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

static_assert(kTile == cpu::kLabelsPerUnit, "a unit is one tile");

// A buffer that grows and stays with its thread. It is no std::vector, whose code the instruction sets would share.
template <class T>
class KeptBuffer {
 public:
  KeptBuffer() = default;
  KeptBuffer(const KeptBuffer&) = delete;
  KeptBuffer& operator=(const KeptBuffer&) = delete;
  ~KeptBuffer() { free(memory_); }

  // Returns memory for `size` numbers, or null if there is none.
  T* of(int64_t size) {
    if (size > size_) {
      free(memory_);
      memory_ = static_cast<T*>(malloc(sizeof(T) * static_cast<size_t>(size)));
      size_ = memory_ ? size : 0;
    }
    return memory_;
  }

 private:
  T* memory_ = nullptr;
  int64_t size_ = 0;
};

// The tiles of a row whose targets the first visit has found to be 0. It covers the first four million labels.
class ZeroTiles {
 public:
  void set(int64_t label, bool zeros) {
    if (label < kLabels) zeros_[label / kTile] = zeros;
  }
  bool at(int64_t label) const { return label < kLabels && zeros_[label / kTile]; }

 private:
  static constexpr int64_t kLabels = 4096 * kTile;
  bool zeros_[kLabels / kTile];
};

template <class T>
class EngineBase {
 protected:
  using Work = cpu::Work;

  const Work& work_;
  const Call& call_;
  const TileReader<T> reader_;
  const int64_t tiles_;

  EngineBase(const Work& work, bool softmax_over_labels, bool second_logits)
      : work_(work),
        call_(*work.call),
        reader_(*work.call, softmax_over_labels, second_logits),
        tiles_((work.call->labels + kTile - 1) / kTile) {}

  int tile_size(int64_t t) const {
    const int64_t left = call_.labels - t * kTile;
    return static_cast<int>(left < kTile ? left : kTile);
  }

  template <class F>
  void for_units(int64_t begin, int64_t end, F f) const {
    if (begin == end) return;
    int64_t row = begin / tiles_, t = begin % tiles_;
    for (int64_t unit = begin; unit < end; ++unit) {
      f(unit, row, t * kTile, tile_size(t));
      if (++t == tiles_) {
        t = 0;
        ++row;
      }
    }
  }

  int64_t units_of_group() const { return call_.grouping == Grouping::kMicro ? call_.rows * tiles_ : tiles_; }

  T sample_weight(int64_t row) const {
    return call_.sample_weight ? static_cast<const T*>(call_.sample_weight)[row] : T(1);
  }

  // Returns the factor of a tile's gradient, without a grad_output of each element.
  T factor_at(int64_t row, int64_t label) const {
    double f = call_.factor;
    if (call_.normalizer) f /= static_cast<double>(*static_cast<const T*>(call_.normalizer));
    if (!crosses_rows(call_)) f *= static_cast<double>(sample_weight(row));
    if (const T* grad_output = grad_output_at(row, label)) {
      if (work_.backward->grad_output_label_stride == 0) f *= static_cast<double>(*grad_output);
    }
    return static_cast<T>(f);
  }

  // Returns this factor times logit_scale, unless sums of the gradient without the scale are needed.
  T folded_factor(int64_t row, int64_t label) const {
    return wants_sums() ? factor_at(row, label) : factor_at(row, label) * reader_.scale();
  }

  const T* grad_output_at(int64_t row, int64_t label) const {
    if (!work_.backward) return nullptr;
    return static_cast<const T*>(work_.backward->grad_output) + row * work_.backward->grad_output_row_stride +
           label * work_.backward->grad_output_label_stride;
  }

  bool wants_sums() const { return work_.unit_row_gradients || work_.unit_scale_gradients; }

  void* gradient_memory() const { return work_.forward ? work_.forward->gradient : work_.backward->gradient; }

  bool wants_gradient() const { return gradient_memory() || wants_sums(); }

  // Returns the memory of the second logits' gradient, or null.
  void* other_gradient_memory() const {
    return work_.forward ? work_.forward->other_gradient : work_.backward->other_gradient;
  }

  // Returns the memory that a tile's gradient is formed in: the output itself if it needs no conversion.
  T* gradient_target(int64_t row, int64_t label, T* buffer) const {
    return target_in(gradient_memory(), row, label, buffer);
  }

  T* target_in(void* memory, int64_t row, int64_t label, T* buffer) const {
    constexpr DType own = sizeof(T) == 8 ? DType::kDouble : DType::kFloat;
    if (!memory || call_.logits_dtype != own) return buffer;
    // An in-place gradient must not yet replace the raw logits, which the gradient of logit_scale reads.
    if (work_.unit_scale_gradients) return buffer;
    return static_cast<T*>(memory) + row * call_.gradient_row_stride + label;
  }

  // Returns the memory in which the first visit of a row stores numbers for the second one: that of its gradient,
  // unless it has another dtype or contains the logits.
  T* kept_in_gradient(int64_t row, int64_t label) const {
    if (!work_.forward || gradient_memory() == call_.logits) return nullptr;
    return gradient_target(row, label, nullptr);
  }

  // Returns a buffer of the thread for the same numbers, for rows of at most kMost labels (1 MiB in float32).
  T* kept_in_buffer() const {
    constexpr int64_t kMost = 1 << 18;
    if (!gradient_memory() || call_.labels > kMost) return nullptr;
    thread_local KeptBuffer<T> buffer;
    return buffer.of(call_.labels);
  }

  // Returns one of these two memories for a thread that processes a whole row, or null.
  T* kept_of_row(int64_t row) const {
    T* memory = kept_in_gradient(row, 0);
    return memory ? memory : kept_in_buffer();
  }

  // Returns a row's value times its weight. A weight of 0 gives 0, even if the value is NaN.
  double weighted(int64_t row, double value) const {
    const T weight = sample_weight(row);
    return weight == T(0) ? 0.0 : value * static_cast<double>(weight);
  }

  const T* coefficients() const {
    return static_cast<const T*>(work_.forward ? work_.forward->coefficients : work_.backward->coefficients);
  }

  // Multiplies gradients by the grad_output of each element, and finishes them. All gradients pass here.
  void finish_gradient(const Tile<T>& tile, int64_t row, int64_t label, T* g) const {
    if (!crosses_rows(call_) && sample_weight(row) == T(0)) {
      for (int j = 0; j < tile.size; ++j) g[j] = T(0);
      return;
    }
    const int64_t stride = work_.backward ? work_.backward->grad_output_label_stride : 0;
    if (stride != 0) {
      const T* grad_output = grad_output_at(row, label);
      for (int j = 0; j < tile.size; ++j) g[j] *= grad_output[j * stride];
    }
    reader_.finish_gradient(tile, g);
  }

  void write_gradient(const Tile<T>& tile, int64_t unit, int64_t row, int64_t label, T* g) const {
    finish_gradient(tile, row, label, g);
    if (work_.unit_row_gradients) {
      work_.unit_row_gradients[unit] = sum_of(g, tile.size);
    }
    if (work_.unit_scale_gradients) {
      alignas(64) T x[kTile];
      reader_.read_raw(row, label, tile.size, x);
      double sum = 0.0;
      // A logit with a gradient of 0 must not count, even if it is infinite or NaN.
      for (int j = 0; j < tile.size; ++j)
        sum += g[j] == T(0) ? 0.0 : static_cast<double>(g[j]) * static_cast<double>(x[j]);
      work_.unit_scale_gradients[unit] = sum;
    }
    if (!gradient_memory()) return;
    const T scale = reader_.scale();
    if (wants_sums() && scale != T(1)) {
      for (int j = 0; j < tile.size; ++j) g[j] *= scale;
    }
    store_gradient(gradient_memory(), row, label, tile.size, g);
  }

  void write_other_gradient(const Tile<T>& tile, int64_t row, int64_t label, T* g) const {
    finish_gradient(tile, row, label, g);
    store_gradient(other_gradient_memory(), row, label, tile.size, g);
  }

  void store_gradient(void* memory, int64_t row, int64_t label, int size, const T* g) const {
    with_floating(call_.logits_dtype, [&](auto* type) {
      using Out = std::remove_pointer_t<decltype(type)>;
      Out* out = static_cast<Out*>(memory) + row * call_.gradient_row_stride + label;
      if (static_cast<const void*>(out) == static_cast<const void*>(g)) return;
      for (int j = 0; j < size; ++j) out[j] = narrow<Out>(g[j]);
    });
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
