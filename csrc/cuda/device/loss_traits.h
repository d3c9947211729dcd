// Properties of a loss that only the CUDA engine needs. Functors do not contain them, because they serve every engine.
#pragma once

#include "../../losses/compound.h"
#include "../../losses/registry.h"
#include "device_call.h"
#include "portability.cuh"

namespace mlloss {
namespace cuda {

// The register pressure of a loss: 0 for most, 1 for those that need more registers, 2 for a sum of two losses, 3 for
// longer sums. Kernels under pressure are compiled for fewer blocks on a multiprocessor.
template <class Loss>
constexpr int kRegisterPressure = 0;
template <class T>
constexpr int kRegisterPressure<Asymmetric<T>> = 1;
template <class T>
constexpr int kRegisterPressure<DecoupledSoftmax<T>> = 1;
template <class T>
constexpr int kRegisterPressure<Lsep<T>> = 1;
template <class T>
constexpr int kRegisterPressure<MultiPositiveCrossEntropy<T>> = 1;
template <class T>
constexpr int kRegisterPressure<SelfAdjustingDice<T>> = MLLOSS_CAPABILITY >= 100 ? 2 : 1;
template <class T>
constexpr int kRegisterPressure<SigmoidFocal<T>> = MLLOSS_CAPABILITY >= 100 ? 1 : 0;
template <class T, template <class> class... Losses>
constexpr int kRegisterPressure<Compound<T, Losses...>> = sizeof...(Losses) > 2 ? 3 : 2;

// The values of the logistic function that all terms of a sum read from one exponential and one reciprocal.
template <class Loss>
constexpr LogisticNeed kShared = LogisticNeed::kNothing;
template <class T, template <class> class... Losses>
constexpr LogisticNeed kShared<Compound<T, Losses...>> =
    ((Losses<T>::kLogistic == LogisticNeed::kLogarithm) || ...) ? LogisticNeed::kLogarithm : LogisticNeed::kPower;

// Returns an element with the values that the terms of a sum share.
template <class Loss, class T, Targets kTargets>
MLLOSS_DEVICE auto prepared(const Element<T, kTargets>& e) {
  if constexpr (kShared<Loss> != LogisticNeed::kNothing && sizeof(T) == 4 && kTargets != Targets::kSoft) {
    const float power = logistic_power(e.s), rest = reciprocal(1.0f + power), p = power * rest;
    if constexpr (kShared<Loss> == LogisticNeed::kLogarithm) {
      const float q = kTargets == Targets::kHard ? flushed(rest) : rest;
      return ReadyElement<float, kTargets>{{e.s, e.y, e.w}, {p, q, minus_log_of_rest(at_most(p, q))}, power};
    } else {
      return ReadyElement<float, kTargets>{{e.s, e.y, e.w}, {p, rest, 0.0f}, power};
    }
  } else {
    return e;
  }
}

// True if loops over a team's chunks are not unrolled. For sums with an element-wise term, unrolling saves some ten
// instructions an element, but adds three seconds of compilation and 100 KB of code to each kernel.
template <class Loss>
constexpr bool kRolled = false;
template <class T, template <class> class... Losses>
constexpr bool kRolled<Compound<T, Losses...>> = ((Losses<T>::kScope == Scope::kElement) || ...);

// The minimum of team blocks on a multiprocessor, which limits the registers of a thread. Bool targets need registers
// for their loads; CSR targets do not. On sm_80, slopes spill if a thread has 80 registers. kFastPath: as in team.cuh.
template <class Loss, FastPath kFastPath>
constexpr int team_blocks_of() {
  if (kRegisterPressure<Loss> > 2) return 1;
  const bool few = kFastPath == FastPath::kSparse && kRegisterPressure<Loss> == 0;
  return few && !(Loss::kSlopes && MLLOSS_CAPABILITY < 90) ? 3 : 2;
}
template <class Loss, FastPath kFastPath>
constexpr int kTeamBlocks = team_blocks_of<Loss, kFastPath>();

}  // namespace cuda
}  // namespace mlloss
