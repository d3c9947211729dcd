// The entries of one row of CSR targets, as one thread or a whole warp reads them.
#pragma once

#include "block_reduce.cuh"
#include "device_call.h"

namespace mlloss {
namespace cuda {

// The entries of a row. Columns are labels of the call, which may be a part of the matrix's columns. Wrong indices
// never cause an access outside of the tensors.
class CsrRow {
 public:
  static constexpr int kNoColumn = 0x7fffffff, kFarLeft = -(1 << 30);

  // The row that starts with entry number `first` of the tensors and has `count` entries.
  MLLOSS_DEVICE CsrRow(const DeviceCall& call, int64_t first, int count) : call_(call), first_(first), count_(count) {}

  static MLLOSS_DEVICE CsrRow of(const DeviceCall& call, int64_t row) {
    const int64_t first = clamp(call, index(call, call.crow_indices, row));
    const int64_t entries = clamp(call, index(call, call.crow_indices, row + 1)) - first;
    const int64_t count = entries < 0 ? 0 : entries < call.all_labels ? entries : call.all_labels;
    return CsrRow(call, first, static_cast<int>(count));
  }

  MLLOSS_DEVICE int64_t first() const { return first_; }
  MLLOSS_DEVICE int count() const { return count_; }

  // Returns the column of entry k, or kNoColumn after the last entry.
  MLLOSS_DEVICE int column(int k) const {
    if (k >= count_) return kNoColumn;
    const int64_t c = index(call_, call_.col_indices, first_ + k) - call_.first_label;
    return c < kFarLeft ? kFarLeft : c > kNoColumn ? kNoColumn : static_cast<int>(c);
  }

  // Returns the column of entry k < count(), or -1 if it is no label of the call. This needs fewer registers than
  // column(), whose results keep the order of the columns.
  MLLOSS_DEVICE int label(int k) const {
    const int64_t c = index(call_, call_.col_indices, first_ + k) - call_.first_label;
    return static_cast<uint64_t>(c) < static_cast<uint64_t>(call_.labels) ? static_cast<int>(c) : -1;
  }

  template <class T>
  MLLOSS_DEVICE T value(int k) const {
    return static_cast<const T*>(call_.values)[first_ + k];
  }

  // Returns the first entry from `low` on whose column is not below `label`.
  MLLOSS_DEVICE int lower_bound(int low, int label) const {
    int high = count_;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (column(middle) < label) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  const DeviceCall& call_;
  const int64_t first_;
  const int count_;

  static MLLOSS_DEVICE int64_t index(const DeviceCall& call, const void* indices, int64_t k) {
    return call.wide_indices ? static_cast<const int64_t*>(indices)[k]
                             : static_cast<int64_t>(static_cast<const int32_t*>(indices)[k]);
  }

  static MLLOSS_DEVICE int64_t clamp(const DeviceCall& call, int64_t k) {
    return k < 0 ? 0 : k > call.nnz ? call.nnz : k;
  }
};

// The next entries of a row, one in each lane of a warp. Labels are passed from left to right, and all lanes of the
// warp call each function together. Labels without entries need a comparison and a vote, wherever other entries lie.
class WarpEntries {
 public:
  // Starts with the entries from `label` on. Without `used` nothing is loaded, and no other function may be called.
  MLLOSS_DEVICE WarpEntries(const CsrRow& row, bool used, int label) : row_(row) {
    next_ = column_ = last_ = 0;
    more_ = false;
    if (!used) return;
    next_ = row.count() > kWarpLanes ? row.lower_bound(0, label) : 0;
    load();
  }

  // True if there is no entry from `label` to `label` + `labels` - 1.
  MLLOSS_DEVICE bool none(int label, int labels) {
    while (more_ && last_ < label) load();
    const bool mine = distance(label) < static_cast<unsigned>(labels);
    const bool unseen = more_ && last_ < label + labels;
    return !__any_sync(kAllLanes, mine || unseen);
  }

  // Returns which of V labels have an entry, as bits: lane i's labels start at `label` + i V.
  template <int V>
  MLLOSS_DEVICE uint32_t take(int label) {
    uint32_t bits = 0;
    while (true) {
      const bool mine = distance(label) < kWarpLanes * unsigned{V};
      for (unsigned left = __ballot_sync(kAllLanes, mine); left != 0; left &= left - 1) {
        const int at = __shfl_sync(kAllLanes, column_, __ffs(static_cast<int>(left)) - 1) - label;
        if (at / V == this_lane()) bits |= 1u << (at % V);
      }
      if (!more_ || last_ >= label + kWarpLanes * V) return bits;
      load();
    }
  }

 private:
  const CsrRow row_;
  int next_;    // the first entry that no lane has loaded yet
  int column_;  // the lane's
  int last_;    // the last lane's column
  bool more_;   // entries follow

  // Returns the distance of the lane's column from `label`. It is huge if the column is to the left of the label.
  MLLOSS_DEVICE unsigned distance(int label) const {
    return static_cast<unsigned>(column_) - static_cast<unsigned>(label);
  }

  MLLOSS_DEVICE void load() {
    column_ = row_.column(next_ + this_lane());
    last_ = __shfl_sync(kAllLanes, column_, kWarpLanes - 1);
    next_ += kWarpLanes;
    more_ = next_ < row_.count();
  }
};

}  // namespace cuda
}  // namespace mlloss
