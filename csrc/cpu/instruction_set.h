// The instruction sets that the kernels are built for, and the choice of one of them for this process.
#pragma once

#include "../ops.h"
#include "kernels.h"
#include "x86_level.h"

namespace mlloss {
namespace cpu {

// The kernels of each instruction set that is built.
using TableOf = Table (*)();
constexpr TableOf kTables[kIsaCount] = {
#if defined(MLLOSS_BUILT_baseline)
    table_baseline,
#else
    nullptr,
#endif
#if defined(MLLOSS_BUILT_x86_64_v3)
    table_x86_64_v3,
#else
    nullptr,
#endif
#if defined(MLLOSS_BUILT_x86_64_v4)
    table_x86_64_v4,
#else
    nullptr,
#endif
};

inline bool can_run(int isa) { return isa >= 0 && isa <= machine_isa() && kTables[isa]; }

// Returns the best instruction set, or -1 if the library is built for other processors only.
inline int best_isa() {
  int isa = machine_isa();
  while (isa >= 0 && !kTables[isa]) --isa;
  return isa;
}

inline int& active_isa() {
  static int isa = best_isa();
  return isa;
}

inline Table table() {
  STD_TORCH_CHECK(active_isa() >= 0, "mlloss_cuda: the CPU kernels are built for another processor; build them here");
  return kTables[active_isa()]();
}

}  // namespace cpu
}  // namespace mlloss
