// The CPU kernels for one instruction set. CMake compiles this file once for each. MLLOSS_ISA is the name of the set,
// and MLLOSS_TABLE the function that returns the kernels.
#include "../losses/registry.h"
#include "compound.h"
#include "engine.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <template <class> class Loss, class T>
constexpr cpu::LossKernels kernels_of() {
  using E = Engine<Loss, T>;
  if constexpr (Loss<T>::kScope == Scope::kElement) {
    constexpr cpu::Kernel pairs = Loss<T>::kSecondLogits ? E::pairs : nullptr;
    return {true,    0,       0,       0,       E::elements, pairs,   nullptr,          nullptr,
            nullptr, nullptr, nullptr, nullptr, nullptr,     nullptr, E::label_gradient};
  } else {
    constexpr cpu::Kernel second_pass = Loss<T>::kSecondPassSums > 0 ? E::second_pass : nullptr;
    return {false,
            E::kStatistics,
            Loss<T>::kCoefficients,
            Loss<T>::kSecondPassSums,
            nullptr,
            nullptr,
            E::rows,
            E::statistics,
            second_pass,
            E::merge,
            E::finalize,
            E::gradient,
            nullptr,
            E::macro,
            E::label_gradient};
  }
}

#define MLLOSS_FLOAT(name, Functor) kernels_of<Functor, float>(),
#define MLLOSS_DOUBLE(name, Functor) kernels_of<Functor, double>(),
static constexpr cpu::LossKernels kFloat[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_FLOAT)};
static constexpr cpu::LossKernels kDouble[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_DOUBLE)};

#define MLLOSS_FLOAT_TERM(name, Functor) term_of<Functor, float>(),
#define MLLOSS_DOUBLE_TERM(name, Functor) term_of<Functor, double>(),
static constexpr TermFunctions<float> kFloatTerms[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_FLOAT_TERM)};
static constexpr TermFunctions<double> kDoubleTerms[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_DOUBLE_TERM)};

// Returns a loss's place in the registry.
template <template <class> class Loss>
constexpr int place_of() {
  int place = 0, i = 0;
#define MLLOSS_PLACE(name, Functor)                                \
  if (std::is_same<Loss<float>, Functor<float>>::value) place = i; \
  ++i;
  MLLOSS_FOR_EACH_LOSS(MLLOSS_PLACE)
  return place;
}

template <class T, template <class> class... Losses>
constexpr FusedSum<T> fused_sum() {
  using F = Fused<T, Losses...>;
  return {{place_of<Losses>()...}, sizeof...(Losses), {F::statistics, F::form, F::values}};
}

// The terms are in the order of their names, as in Python.
static constexpr FusedSum<float> kFusedFloat[] = {
    fused_sum<float, Bce, Dice>(),
    fused_sum<float, Dice, SigmoidFocal>(),
    fused_sum<float, Dice, Zlpr>(),
    fused_sum<float, SigmoidFocal, Zlpr>(),
    fused_sum<float, Bce, Dice, Zlpr>(),
    fused_sum<float, Dice, SigmoidFocal, Zlpr>(),
    fused_sum<float, Asymmetric, Dice, Zlpr>(),
    {{}, 0, {}},
};
static constexpr FusedSum<double> kFusedDouble[] = {{{}, 0, {}}};  // double serves gradcheck and not speed

template <class T, const TermFunctions<T>* kTerms, const FusedSum<T>* kFused>
constexpr cpu::LossKernels compound_kernels() {
  using C = CompoundEngine<T, kTerms, kFused>;
  return {false,   0,        0,           0,           nullptr,           nullptr, C::rows,          C::statistics,
          nullptr, C::merge, C::finalize, C::gradient, C::element_values, nullptr, C::label_gradient};
}

static void scale(DType dtype, void* memory, double factor, int64_t begin, int64_t end) {
  with_floating(dtype, [=](auto* type) {
    auto* x = static_cast<decltype(type)>(memory);
    using Wide = decltype(widen(*x));
    const Wide f = static_cast<Wide>(factor);
    for (int64_t i = begin; i < end; ++i) x[i] = narrow<std::remove_pointer_t<decltype(type)>>(widen(x[i]) * f);
  });
}

}  // namespace MLLOSS_ISA

cpu::Table cpu::MLLOSS_TABLE() {
  return {kFloat,
          kDouble,
          static_cast<int>(sizeof(kFloat) / sizeof(kFloat[0])),
          compound_kernels<float, kFloatTerms, kFusedFloat>(),
          compound_kernels<double, kDoubleTerms, kFusedDouble>(),
          scale};
}

}  // namespace mlloss
