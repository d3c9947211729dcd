// Facts about a loss that only the CUDA engine needs. They are not in the functors, which know no engine.
#pragma once

#include "../losses/compound.h"
#include "../losses/registry.h"

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
constexpr int kRegisterPressure<SymmetricKl<T>> = 1;
template <class T, template <class> class... Losses>
constexpr int kRegisterPressure<Compound<T, Losses...>> = sizeof...(Losses) > 2 ? 3 : 2;

// True if a loss has kernels that hold a row in shared memory (the strategies resident and cluster).
template <class Loss>
constexpr bool kRowResident = false;

}  // namespace cuda
}  // namespace mlloss
