// The kernels for a loss or a sum of losses, found by name.
#pragma once

#include <string>

#include "../../losses/compounds.h"
#include "../../losses/registry.h"
#include "../../ops.h"
#include "kernels.h"

namespace mlloss {
namespace cuda {

#define MLLOSS_NAME(name, Functor) #name,
#define MLLOSS_NAMES(names, Functor) names,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME) MLLOSS_FOR_EACH_COMPOUND(MLLOSS_NAMES)};
#undef MLLOSS_NAMES
#undef MLLOSS_NAME

inline Table table_for(DType dtype) {
  switch (dtype) {
    case DType::kFloat:
      return table_float();
    case DType::kHalf:
      return table_half();
    case DType::kBFloat16:
      return table_bfloat16();
    default:
      return table_double();
  }
}

inline const LossKernels& kernels_of(const std::string& loss, DType dtype) {
  const Table table = table_for(dtype);
  for (int i = 0; i < table.count; ++i) {
    if (loss == kLossNames[i]) return table.losses[i];
  }
  STD_TORCH_CHECK(false, "mlloss_cuda: this build has no kernels for the loss ", loss);
}

}  // namespace cuda
}  // namespace mlloss
