// A tile of one row in the form that functors read: logits after scale and offsets, targets as one number each, and
// weights if there are any. No other file of the CPU engine depends on layouts and dtypes.
#pragma once

#include "../losses/functor.h"
#include "dtypes.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// The number of labels in a tile, whose four buffers fit a first-level cache.
constexpr int kTile = 1024;

template <class T>
struct Tile {
  int size;
  Targets targets;
  bool weighted;  // w contains weights, which are 0 for excluded labels
  bool excluded;  // at least one label is excluded
  bool zeros;     // all targets are 0, so that a later visit need not read them
  const T* s;
  const T* y;
  const T* w;
  const T* parameters;  // for functors with kLabelParameter; ones unless `parametrised`
  bool parametrised;
  alignas(64) T s_buffer[kTile];
  alignas(64) T y_buffer[kTile];
  alignas(64) T w_buffer[kTile];
};

template <class T>
class TileReader {
 public:
  // `softmax_over_labels`, `second_logits`: as in functors.
  TileReader(const Call& call, bool softmax_over_labels, bool second_logits)
      : call_(call), softmax_over_labels_(softmax_over_labels), second_logits_(second_logits) {
    scale_ = call.logit_scale ? *static_cast<const T*>(call.logit_scale) : static_cast<T>(call.scale);
  }

  T scale() const { return scale_; }
  bool softmax_over_labels() const { return softmax_over_labels_; }

  // `zeros` says that an earlier visit has found the targets of the tile to be 0.
  void read(int64_t row, int64_t begin, int size, Tile<T>& tile, bool zeros = false) const {
    tile.size = size;
    tile.parameters = label_parameters(begin);
    tile.parametrised = call_.label_parameter != nullptr;
    tile.weighted = tile.excluded = false;
    tile.zeros = zeros;
    read_logits(row, begin, tile);
    if (zeros) {
      tile.y = tile.y_buffer;
      tile.targets = Targets::kNegative;
    } else if (second_logits_) {
      read_second_logits(row, begin, tile);
    } else if (call_.targets) {
      read_dense(row, begin, tile);
    } else {
      read_sparse(row, begin, tile);
    }
    read_weights(row, begin, tile);
    if (tile.excluded && !softmax_over_labels_) neutralise(tile);
  }

  // Finishes the gradients of a tile before they are summed and stored: those of excluded labels become exactly 0.
  void finish_gradient(const Tile<T>& tile, T* g) const {
    if (!tile.excluded) return;
    // In a softmax over labels, a label of weight 0 keeps its gradient.
    for (int j = 0; j < tile.size; ++j) {
      const bool out = tile.w[j] == T(0) && (!softmax_over_labels_ || tile.s[j] == T(-INFINITY));
      g[j] = out ? T(0) : g[j];
    }
  }

  // Reads the logits without scale and offsets, for the gradient of logit_scale.
  void read_raw(int64_t row, int64_t begin, int size, T* out) const {
    with_floating(call_.logits_dtype, [&](auto* type) {
      const auto* x = static_cast<decltype(type)>(const_cast<void*>(call_.logits)) + row * call_.logits_row_stride +
                      begin * call_.logits_label_stride;
      const int64_t stride = call_.logits_label_stride;
      if (stride == 1) {
        for (int j = 0; j < size; ++j) out[j] = static_cast<T>(widen(x[j]));
      } else {
        for (int j = 0; j < size; ++j) out[j] = static_cast<T>(widen(x[j * stride]));
      }
    });
  }

 private:
  const Call& call_;
  const bool softmax_over_labels_, second_logits_;
  T scale_;

  // Returns the parameters of the labels from `begin` on, which are ones if the caller gave none.
  const T* label_parameters(int64_t begin) const {
    struct Ones {
      T v[kTile];
      constexpr Ones() : v() {
        for (int j = 0; j < kTile; ++j) v[j] = T(1);
      }
    };
    static constexpr Ones ones;
    return call_.label_parameter ? static_cast<const T*>(call_.label_parameter) + begin : ones.v;
  }

  static constexpr DType kOwnDType = sizeof(T) == 8 ? DType::kDouble : DType::kFloat;

  void read_logits(int64_t row, int64_t begin, Tile<T>& tile) const {
    const T* label_offset = static_cast<const T*>(call_.label_offset);
    T offset = static_cast<T>(call_.offset);
    if (call_.row_offset) offset += static_cast<const T*>(call_.row_offset)[row * call_.row_offset_stride];
    const bool plain = scale_ == T(1) && offset == T(0) && !label_offset;
    if (plain && call_.logits_dtype == kOwnDType && call_.logits_label_stride == 1) {
      tile.s = static_cast<const T*>(call_.logits) + row * call_.logits_row_stride + begin;
      return;
    }
    T* s = tile.s_buffer;
    tile.s = s;
    read_raw(row, begin, tile.size, s);
    if (plain) return;
    if (label_offset) {
      const T* bias = label_offset + begin;
      for (int j = 0; j < tile.size; ++j) s[j] = s[j] * scale_ + (bias[j] + offset);
    } else {
      for (int j = 0; j < tile.size; ++j) s[j] = s[j] * scale_ + offset;
    }
  }

  T smoothed(T y) const {
    const T e = static_cast<T>(call_.label_smoothing);
    return y * (T(1) - e) + e / static_cast<T>(call_.all_labels);
  }

  void own_logits(Tile<T>& tile) const {
    if (tile.s == tile.s_buffer) return;
    memcpy(tile.s_buffer, tile.s, sizeof(T) * static_cast<size_t>(tile.size));
    tile.s = tile.s_buffer;
  }

  void own_second_logits(Tile<T>& tile) const {
    if (tile.y == tile.y_buffer) return;
    memcpy(tile.y_buffer, tile.y, sizeof(T) * static_cast<size_t>(tile.size));
    tile.y = tile.y_buffer;
  }

  void own_weights(Tile<T>& tile) const {
    if (tile.weighted) return;
    for (int j = 0; j < tile.size; ++j) tile.w_buffer[j] = T(1);
    tile.w = tile.w_buffer;
    tile.weighted = true;
  }

  void read_dense(int64_t row, int64_t begin, Tile<T>& tile) const {
    tile.y = tile.y_buffer;
    const int64_t stride = call_.targets_label_stride;
    const int64_t first = row * call_.targets_row_stride + begin * stride;
    if (is_floating(call_.targets_dtype)) {
      with_floating(call_.targets_dtype, [&](auto* type) {
        const auto* y = static_cast<decltype(type)>(const_cast<void*>(call_.targets)) + first;
        if (only_zeros(y, stride, tile)) return;
        copy_targets(tile, y, stride, [](auto raw) { return static_cast<T>(widen(raw)); });
        if (only_labels(tile, false)) return;
        classify(tile, y, stride, [](auto raw) { return static_cast<double>(widen(raw)); });
      });
    } else {
      with_integer(call_.targets_dtype, [&](auto* type) {
        const auto* y = static_cast<decltype(type)>(const_cast<void*>(call_.targets)) + first;
        if (only_zeros(y, stride, tile)) return;
        copy_targets(tile, y, stride, [](auto raw) { return raw > 0 ? T(1) : static_cast<T>(raw); });
        const bool ignores = call_.has_ignore_index && call_.targets_dtype != DType::kBool;
        if (!ignores && only_labels(tile, call_.targets_dtype == DType::kBool)) return;
        classify(tile, y, stride, [](auto raw) { return static_cast<int64_t>(raw); });
      });
    }
  }

  void read_second_logits(int64_t row, int64_t begin, Tile<T>& tile) const {
    tile.targets = Targets::kSoft;
    const int64_t stride = call_.targets_label_stride;
    if (scale_ == T(1) && call_.targets_dtype == kOwnDType && stride == 1) {
      tile.y = static_cast<const T*>(call_.targets) + row * call_.targets_row_stride + begin;
      return;
    }
    tile.y = tile.y_buffer;
    with_floating(call_.targets_dtype, [&](auto* type) {
      const auto* y = static_cast<decltype(type)>(const_cast<void*>(call_.targets));
      copy_targets(tile, y + row * call_.targets_row_stride + begin * stride, stride,
                   [scale = scale_](auto raw) { return static_cast<T>(widen(raw)) * scale; });
    });
  }

  // Returns true if the tile has been read, because all of its targets are 0, as in most tiles of sparse rows.
  template <class Y>
  bool only_zeros(const Y* y, int64_t stride, Tile<T>& tile) const {
    if (stride != 1 || call_.label_smoothing > 0.0) return false;
    constexpr int kStep = 128;
    for (int begin = 0; begin < tile.size; begin += kStep) {
      const int end = begin + kStep < tile.size ? begin + kStep : tile.size;
      decltype(bits_of(*y)) any = 0;
      for (int j = begin; j < end; ++j) any |= bits_of(y[j]);
      if (any != 0) return false;
    }
    tile.targets = Targets::kNegative;
    tile.zeros = true;
    return true;
  }

  // Returns true if the tile has been read, because all targets in y_buffer are 0 or 1; `known` says that they are.
  bool only_labels(Tile<T>& tile, bool known) const {
    if (call_.label_smoothing > 0.0) return false;
    const T* target = tile.y_buffer;
    int others = 0;
    for (int j = 0; !known && j < tile.size; ++j) others |= target[j] * (T(1) - target[j]) != T(0);
    tile.targets = Targets::kHard;
    return others == 0;
  }

  template <class Y, class Convert>
  static void copy_targets(Tile<T>& tile, const Y* y, int64_t stride, Convert convert) {
    if (stride == 1) {
      for (int j = 0; j < tile.size; ++j) tile.y_buffer[j] = convert(y[j]);
    } else {
      for (int j = 0; j < tile.size; ++j) tile.y_buffer[j] = convert(y[j * stride]);
    }
  }

  // Finds the kind of the tile in y_buffer, and handles ignored, negative and smoothed targets.
  template <class Y, class Raw>
  void classify(Tile<T>& tile, const Y* y, int64_t stride, Raw raw) const {
    T* target = tile.y_buffer;
    int soft = 0, positive = 0, odd = 0;
    for (int j = 0; j < tile.size; ++j) {
      // Targets below 0 and NaN become 0 below.
      soft |= static_cast<int>(target[j] > T(0)) & static_cast<int>(target[j] != T(1));
      positive |= target[j] > T(0);
      odd |= !(target[j] >= T(0));
    }
    if (call_.has_ignore_index || odd) {
      for (int j = 0; j < tile.size; ++j) {
        if (call_.has_ignore_index && ignored(raw(y[j * stride]))) {
          exclude(tile, j);
        } else if (!(target[j] >= T(0))) {
          invalidate(tile, j);
        }
      }
    }
    if (call_.label_smoothing > 0.0) {
      for (int j = 0; j < tile.size; ++j) target[j] = smoothed(target[j]);
      // Excluded labels get no share of the smoothing. Other weights are read later.
      for (int j = 0; tile.excluded && j < tile.size; ++j) target[j] = tile.w_buffer[j] == T(0) ? T(0) : target[j];
      tile.targets = Targets::kSoft;
    } else {
      tile.targets = soft ? Targets::kSoft : positive ? Targets::kHard : Targets::kNegative;
    }
  }

  bool ignored(int64_t y) const { return y == call_.ignore_index; }
  bool ignored(double y) const {
    return call_.ignore_index == kIgnoreNan ? y != y : y == static_cast<double>(call_.ignore_index);
  }

  void exclude(Tile<T>& tile, int j) const {
    own_weights(tile);
    tile.w_buffer[j] = T(0);
    tile.y_buffer[j] = T(0);
    tile.excluded = true;
    if (!softmax_over_labels_) return;
    own_logits(tile);
    tile.s_buffer[j] = T(-INFINITY);
  }

  // A negative target other than ignore_index makes the logit NaN: -1/+1 labels must not count as unknown ones.
  void invalidate(Tile<T>& tile, int j) const {
    own_logits(tile);
    tile.s_buffer[j] = static_cast<T>(NAN);
    tile.y_buffer[j] = T(0);
  }

  template <class Index>
  static int64_t lower_bound(const Index* columns, int64_t low, int64_t high, int64_t label) {
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (columns[middle] < label) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  template <class Index>
  void read_columns(int64_t row, int64_t begin, Tile<T>& tile) const {
    const Index* crow = static_cast<const Index*>(call_.crow_indices);
    const Index* columns = static_cast<const Index*>(call_.col_indices);
    const T* values = static_cast<const T*>(call_.values);
    const int64_t first = clamp(crow[row]), last = clamp(crow[row + 1]);
    const int64_t from = call_.first_label + begin, end = from + tile.size;
    int64_t k = lower_bound(columns, first, last, from);
    const bool smooth = call_.label_smoothing > 0.0;
    if ((k >= last || columns[k] >= end) && !smooth) {
      tile.targets = Targets::kNegative;
      tile.zeros = true;
      return;
    }
    tile.targets = smooth ? Targets::kSoft : Targets::kHard;
    const T background = smooth ? smoothed(T(0)) : T(0);
    for (int j = 0; j < tile.size; ++j) tile.y_buffer[j] = background;
    for (; k < last && columns[k] < end; ++k) {
      const int64_t j = columns[k] - from;
      if (j < 0) continue;
      const T value = values ? values[k] : T(1);
      if (value < T(0)) {
        exclude(tile, static_cast<int>(j));
      } else if (value != value) {
        invalidate(tile, static_cast<int>(j));
      } else {
        tile.y_buffer[j] = smooth ? smoothed(value) : value;
        if (!(value == T(0) || value == T(1))) tile.targets = Targets::kSoft;
      }
    }
  }

  int64_t clamp(int64_t k) const { return k < 0 ? 0 : k > call_.nnz ? call_.nnz : k; }

  void read_sparse(int64_t row, int64_t begin, Tile<T>& tile) const {
    tile.y = tile.y_buffer;
    if (call_.wide_indices) {
      read_columns<int64_t>(row, begin, tile);
    } else {
      read_columns<int32_t>(row, begin, tile);
    }
  }

  void read_weights(int64_t row, int64_t begin, Tile<T>& tile) const {
    const T* weight = static_cast<const T*>(call_.weight);
    const T* sample_weight = crosses_rows(call_) ? static_cast<const T*>(call_.sample_weight) : nullptr;
    if (weight) {
      own_weights(tile);
      int zeros = 0;
      for (int j = 0; j < tile.size; ++j) {
        tile.w_buffer[j] *= weight[begin + j];
        zeros |= tile.w_buffer[j] == T(0);
      }
      tile.excluded |= zeros != 0 && !softmax_over_labels_;
    }
    if (sample_weight && sample_weight[row] != T(1)) {
      own_weights(tile);
      for (int j = 0; j < tile.size; ++j) tile.w_buffer[j] *= sample_weight[row];
      tile.excluded |= sample_weight[row] == T(0);
    }
  }

  // An element of weight 0 must not influence results, even if its logit is NaN.
  void neutralise(Tile<T>& tile) const {
    own_logits(tile);
    own_second_logits(tile);
    if (tile.targets == Targets::kNegative) {
      for (int j = 0; j < tile.size; ++j) tile.y_buffer[j] = T(0);
    }
    for (int j = 0; j < tile.size; ++j) {
      const bool out = tile.w_buffer[j] == T(0);
      tile.s_buffer[j] = out ? T(0) : tile.s_buffer[j];
      tile.y_buffer[j] = out ? T(0) : tile.y_buffer[j];
    }
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
