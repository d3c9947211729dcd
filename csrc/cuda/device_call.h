// The call as kernels take it: with what is derived from it once, on the host, and not by every thread.
#pragma once

#include "../core/params.h"

namespace mlloss {
namespace cuda {

struct DeviceCall : Call {
  // Smoothed targets: y * smooth_slope + smooth_floor
  double smooth_slope, smooth_floor;

  explicit DeviceCall(const Call& call)
      : Call(call),
        smooth_slope(1.0 - call.label_smoothing),
        smooth_floor(call.label_smoothing / static_cast<double>(call.labels)) {}
};

}  // namespace cuda
}  // namespace mlloss
