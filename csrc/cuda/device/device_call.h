// The call in the form that kernels take, with numbers that the host derives once in place of every thread.
#pragma once

#include <cmath>

#include "../../core/launch_plan.h"

namespace mlloss {
namespace cuda {

// Chunks inside a row take the fast path if the logits need no scale and no offsets, the targets are CSR or bool
// without smoothing, and the labels have neither weights nor parameters.
enum class FastPath : int { kNone, kSparse, kBools };

// Clamps y to an int. Numbers outside of an int's range are no valid targets, so their exact value does not matter.
MLLOSS_HD int saturated(int64_t y) {
  constexpr int64_t kMost = 0x7fffffff, kLeast = -kMost - 1;
  return static_cast<int>(y < kLeast ? kLeast : y > kMost ? kMost : y);
}

struct DeviceCall : Call {
  // The ignore_index as a float (NaN, which equals nothing, if no float has that value) and as an integer.
  float ignored_float;
  int ignored_integer;
  bool ignores_nan;  // floating targets that are NaN are ignored
  // Smoothed targets are y * smooth_slope + smooth_floor.
  double smooth_slope, smooth_floor;
  // A chunk whose first label is below this number lies in the row to its end.
  uint32_t whole_starts;
  int target_size;  // the bytes of a dense target
  FastPath fast_path;

  explicit DeviceCall(const Call& call)
      : Call(call),
        ignored_float(ignored_among_floats(call)),
        ignored_integer(saturated(call.ignore_index)),
        ignores_nan(call.has_ignore_index && call.ignore_index == kIgnoreNan),
        smooth_slope(1.0 - call.label_smoothing),
        smooth_floor(call.label_smoothing / static_cast<double>(call.all_labels)),
        whole_starts(static_cast<uint32_t>(std::max<int64_t>(0, call.labels - chunk_width(call.logits_dtype) + 1))),
        target_size(static_cast<int>(bytes_of(call.targets_dtype))),
        fast_path(fast_path_of(call)) {}

  // True if a number is one of the row's labels.
  MLLOSS_HD bool inside(int label) const { return static_cast<unsigned>(label) < static_cast<unsigned>(labels); }

  static float ignored_among_floats(const Call& call) {
    const float rounded = static_cast<float>(call.ignore_index);
    const bool exact = static_cast<double>(rounded) == static_cast<double>(call.ignore_index);
    return call.has_ignore_index && call.ignore_index != kIgnoreNan && exact ? rounded : NAN;
  }

  static FastPath fast_path_of(const Call& call) {
    const bool as_they_are = call.scale == 1.0 && call.offset == 0.0 && !call.logit_scale && !call.label_offset &&
                             !call.row_offset && call.logits_label_stride == 1;
    if (!as_they_are || call.weight || call.label_parameter || call.label_smoothing > 0.0) return FastPath::kNone;
    if (call.crow_indices) return FastPath::kSparse;
    const bool bools = call.targets_dtype == DType::kBool && call.targets_label_stride == 1;
    return bools ? FastPath::kBools : FastPath::kNone;
  }
};

// Returns the fast path that a team kernel takes for the whole call. It needs equal row strides of logits, gradient and
// bool targets, and chunks that are aligned at the same labels. A pass without a gradient takes the path of one with a
// new gradient, so that its value is the same bit for bit.
inline FastPath team_path_of(const Call& call, const void* gradient) {
  const FastPath path = DeviceCall::fast_path_of(call);
  const int64_t width = chunk_width(call.logits_dtype), size = bytes_of(call.logits_dtype);
  const auto lanes_before = [&](const void* first, int64_t bytes) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(first)) / bytes % width;
  };
  const int64_t before = lanes_before(call.logits, size);
  const bool one_row = call.rows == 1;  // whose strides mean nothing
  if (reinterpret_cast<uintptr_t>(call.logits) % static_cast<uintptr_t>(size) != 0) return FastPath::kNone;
  if (lanes_before(gradient, size) != before) return FastPath::kNone;
  if (!one_row && call.gradient_row_stride != call.logits_row_stride) return FastPath::kNone;
  if (path == FastPath::kSparse) return call.values ? FastPath::kNone : path;
  if (!one_row && call.targets_row_stride != call.logits_row_stride) return FastPath::kNone;
  return lanes_before(call.targets, 1) == before ? path : FastPath::kNone;
}

// Returns the planner's input for a call. `team_threads` is an entry of LossKernels::team_threads.
inline Problem problem_of(const Call& call, bool gradient, int team_threads = 0, FastPath path = FastPath::kNone) {
  return {call.rows,         call.labels,
          call.logits_dtype, call.grouping,
          gradient,          call.logits_label_stride == 1,
          team_threads,      path == FastPath::kNone ? kGeneralChunks : kChunksPerThread};
}

}  // namespace cuda
}  // namespace mlloss
