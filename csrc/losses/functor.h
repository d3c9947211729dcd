// The contract between a loss and the engines; every loss of this folder is such a functor.
//
// A functor is a class template over the compute type T (double for float64 logits, else float). Its constructor is
// Functor(const double* parameters). It derives from ElementWise (each element has a loss of its own) or from
// GroupWise<Functor<T>> (a group of elements has one loss: a row, and for Dice also a label or the whole batch). The
// bases define the defaults, so a functor states only what differs from them.
//
// An element e has e.s, the logit after scale, bias and threshold; e.y, the target, which is 0 or 1 unless E::kSoft;
// e.w, the weight, which is 1 unless the caller gave weights; and e.parameter (see kLabelParameter). An excluded
// element comes as s = y = w = 0, or as s = -inf, w = 0 if kSoftmaxOverLabels. A weight of 0 also excludes an element,
// unless kSoftmaxOverLabels.
//
// Members of every functor (all have a default)
//   member              needed if                        meaning
//   ------------------  -------------------------------
//   ----------------------------------------------------------------- kLogistic           it calls logistic_of(e, ...),
//   which values of the logistic function or of e^s it reads; an
//                       sigmoid_of(e) or the like        engine may compute these for many elements in advance
//   kSoftmaxOverLabels  the labels share one softmax     an excluded label has s = -inf; a label of weight 0 still
//   takes
//                                                        part in the softmax
//
// Members of an element-wise functor
//   member              needed if                        meaning
//   ------------------  -------------------------------
//   ----------------------------------------------------------------- evaluate(e)         always {value, d value / d s}
//   kVariants, kNeeds,  some parameters have a faster    kVariants versions of evaluate<kVariant>(e), called in place
//   of variant()           formula                          evaluate(e); variant() names the version for these
//   parameters,
//                                                        and kNeeds[kVariant] replaces kLogistic
//   kLabelParameter     each label has a parameter       e.parameter is the caller's number for this label (default 1)
//   kSecondLogits       it compares two logits           e.y is a second logit times logit_scale, any number; the
//   targets
//                                                        are dense with the logits' dtype, and E::kSoft always holds
//   kSeparates,         a sum of values can share one    a negative's value is rest + log(1 + x) with 0 <= x <= 1;
//   separated(e),       logarithm                        separated(e) is {rest, x, d value / d s} and reads e^-|s|;
//   separates(given)                                     separates(given) tells if the same holds for positives, where
//                                                        `given` is true if the caller gave label parameters
//
// Members of a group functor. The statistics of a group are maxima and sums that depend on the maxima. An engine first
// takes the sums with all maxima at 0, which saves work and is enough for ordinary logits.
//   member              needed if                        meaning
//   ------------------  -------------------------------
//   ----------------------------------------------------------------- kMaxima, kSums,     always how many of each a
//   group has kCoefficients sums(e, m)          always                           the element's share of the sums if the
//   maxima are m finalize(stats, v)  always                           sets v to the group's loss and returns the
//   coefficients that the
//                                                        gradient needs
//   scaled(c, factor)   always                           the coefficients of the gradient times factor
//   gradient(e, c)      always                           d value / d s from the group's coefficients
//   kAcrossRows         groups may be labels or batches  requires kMaxima == 0 and kSecondPassSums == 0
//   maxima(e, m)        kMaxima > 0                      raises m to the element's maxima
//   initial_maximum()   kMaxima > 0                      the value that every maximum starts from
//   rescale(sums,       kMaxima > 0                      changes the sums from the maxima `from` to the maxima `to`
//     from, to)
//   needs_max_shift(    kMaxima > 0                      the sums with zero maxima overflowed or vanished, so the
//   engine
//     sums)                                              takes them again with maxima(e, m) and sums(e, m)
//   first_maxima(sums)  initial_maximum() is not 0 and   the maxima that belong to sums with zero maxima: 0, or
//                       a group may have no such sum     initial_maximum() for a sum that no element contributed to
//   first_sums(e)       zero maxima save work            sums(e, m) with m = 0
//   finite_maxima(c),   finite maxima save work          if finite_maxima(c), no maximum in c is infinite, and the
//   cheaper gradient_at_finite                                   gradient_at_finite_maxima(e, c) may replace
//   gradient(e, c)
//     _maxima(e, c)
//   zero_maxima(c),     kMaxima > 0 and it may be a      if zero_maxima(c), all maxima in c are 0, and the cheaper
//   gradient_at_zero    term of a fused CPU loop         gradient_at_zero_maxima(e, c) may replace gradient(e, c)
//     _maxima(e, c)
//   kKeeps,             the gradient can reuse one       first_sums(e, kept) also stores a number in `kept`, from which
//   first_sums(e, kept) number of an element             kept_gradient(e, kept, c) gets the gradient if zero_maxima(c);
//   kept_gradient(e,                                     used by engines that have memory for these numbers
//     kept, c)
//   kSecondPassSums,    a sum needs the final            how many sums are taken in a second pass over the row;
//   second_pass_input   statistics                       second_pass_input(stats) is what they need of the statistics,
//   and
//     (stats),                                           second_pass_sums(e, input) is the element's share, which is 0
//     if
//   second_pass_sums                                     E::kNegative; finalize(stats, second_sums, v) replaces
//     (e, input)                                         finalize(stats, v)
#pragma once

#include <type_traits>

#include "../core/numerics.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

enum class Scope { kElement, kGroup };

// The values of the logistic function or of e^s that a functor reads: the sigmoid, which no engine computes in advance;
// e^s; e^-|s|; e^-|s| and e^-|y|; both sigmoids and the logarithm log(1 + e^-|s|).
enum class LogisticNeed { kNothing, kSigmoid, kPower, kTail, kTwoTails, kLogarithm };

// The defaults that all functors share.
struct FunctorDefaults {
  static constexpr LogisticNeed kLogistic = LogisticNeed::kNothing;
  static constexpr bool kLabelParameter = false, kSecondLogits = false, kSoftmaxOverLabels = false, kAcrossRows = false;
  static constexpr int kSecondPassSums = 0;
};

// The base of every element-wise functor.
struct ElementWise : FunctorDefaults {
  static constexpr Scope kScope = Scope::kElement;
  static constexpr bool kSeparates = false;
  static constexpr int kVariants = 1;
  static constexpr int kMaxima = 0, kSums = 0, kCoefficients = 0;
};

// The base of every functor with statistics; Loss is the functor itself.
template <class Loss>
struct GroupWise : FunctorDefaults {
  static constexpr Scope kScope = Scope::kGroup;
  static constexpr bool kKeeps = false;

  template <class E>
  MLLOSS_HD auto first_sums(const E& e) const {
    return self().sums(e, {});
  }

  template <class A, int kCount>
  static MLLOSS_HD auto first_maxima(const Array<A, kCount>&) {
    return Array<A, Loss::kMaxima>{};
  }

  template <class E, class C>
  MLLOSS_HD auto gradient_at_finite_maxima(const E& e, const C& c) const {
    return self().gradient(e, c);
  }

  template <class E, class C>
  MLLOSS_HD auto gradient_at_zero_maxima(const E& e, const C& c) const {
    return self().gradient(e, c);
  }

 private:
  MLLOSS_HD const Loss& self() const { return static_cast<const Loss&>(*this); }
};

// The base of every group functor without maxima.
template <class Loss>
struct GroupWiseWithoutMaxima : GroupWise<Loss> {
  static constexpr int kMaxima = 0;

  static MLLOSS_HD float initial_maximum() { return 0.0f; }
  template <class E, class M>
  MLLOSS_HD void maxima(const E&, M&) const {}
  template <class S>
  MLLOSS_HD bool needs_max_shift(const S&) const {
    return false;
  }
  template <class S, class M>
  static MLLOSS_HD void rescale(S&, const M&, const M&) {}
  template <class C>
  static MLLOSS_HD bool finite_maxima(const C&) {
    return true;
  }
  template <class C>
  static MLLOSS_HD bool zero_maxima(const C&) {
    return true;
  }
};

// kNegative: every target of the tile is 0, and known at compile time to be.
// kHard: targets are 0 or 1. kSoft: probabilities.
enum class Targets { kNegative, kHard, kSoft };

template <class T, Targets kTargets>
struct Element {
  static constexpr bool kSoft = kTargets == Targets::kSoft;
  static constexpr bool kNegative = kTargets == Targets::kNegative;  // compilers must not drop 0 * x by themselves
  static constexpr bool kReady = false, kTailReady = false;
  T s;  // the logit, after scale, bias and threshold
  T y;
  T w;
  T parameter = T(1);
};

// An element that comes with e^-|s|, and with e^-|y| where y is a logit.
template <class T, Targets kTargets>
struct TailElement : Element<T, kTargets> {
  static constexpr bool kTailReady = true;
  T tail, other_tail;
};

// With what functors take ready: e^s, as logistic_power() has it, and the logistic function's parts, as far as they are
// taken.
template <class T, Targets kTargets>
struct ReadyElement : Element<T, kTargets> {
  static constexpr bool kReady = true;
  LogisticParts<T> parts;
  T power;
};

// At s, or at -s.
template <class E>
MLLOSS_HD auto logistic_of(const E& e, bool negated) {
  if constexpr (E::kReady) {
    return logistic_from(e.parts, e.s, negated);
  } else {
    return logistic(negated ? -e.s : e.s);
  }
}

template <class E>
MLLOSS_HD auto sigmoid_of(const E& e) {
  if constexpr (E::kReady) {
    return e.parts.sigmoid;
  } else {
    return sigmoid(e.s);
  }
}

template <class E>
MLLOSS_HD auto tails_of(const E& e) {
  if constexpr (E::kTailReady) {
    return tails_from(e.s, e.tail, reciprocal(1 + e.tail));
  } else {
    return logistic_tails(e.s);
  }
}

// The tails at s and at y.
template <class E>
MLLOSS_HD auto two_tails_of(const E& e) {
  if constexpr (E::kTailReady) {
    return two_tails_from(e.s, e.tail, e.y, e.other_tail);
  } else {
    return two_tails_from(e.s, tail_power(e.s), e.y, tail_power(e.y));
  }
}

template <class E>
MLLOSS_HD auto sigmoid_and_slope_of(const E& e) {
  if constexpr (E::kReady) {
    using T = decltype(e.parts.l * 1);
    return SigmoidAndSlope<T>{e.parts.sigmoid, e.parts.sigmoid * e.parts.sigmoid_negated};
  } else {
    return sigmoid_and_slope(e.s);
  }
}

// e^s, or e^-s. Ready, the former stays below e^87.
template <class E>
MLLOSS_HD auto power_of(const E& e, bool negated) {
  if constexpr (E::kReady) {
    return negated ? flushed(reciprocal(e.power)) : e.power;
  } else {
    return exponential(negated ? -e.s : e.s);
  }
}

// e^s, below e^87 in float.
template <class E>
MLLOSS_HD auto capped_power_of(const E& e) {
  if constexpr (E::kReady) {
    return e.power;
  } else {
    return logistic_power(e.s);
  }
}

template <class T>
struct ValueAndGradient {
  T value;
  T gradient;
};

// The value is rest + log(1 + x).
template <class T>
struct Separated {
  T rest, x, gradient;
};

// Of a probability y, where a loss is defined for labels. Selected, not multiplied: a label that is certain has
// one term, and the other may be 0 * inf.
template <class T>
MLLOSS_HD ValueAndGradient<T> expectation(T y, ValueAndGradient<T> positive, ValueAndGradient<T> negative) {
  const T no = T(1) - y;
  return {(y > T(0) ? y * positive.value : T(0)) + (y < T(1) ? no * negative.value : T(0)),
          (y > T(0) ? y * positive.gradient : T(0)) + (y < T(1) ? no * negative.gradient : T(0))};
}

// Calls f with the variant that serves the loss's parameters, once and outside a loop, for evaluated<variant>(loss, e).
template <class Loss, class F>
MLLOSS_HD void with_variant(const Loss& loss, F f) {
  if constexpr (Loss::kVariants == 1) {
    f(std::integral_constant<int, 0>());
  } else {
    static_assert(Loss::kVariants == 3, "a case for each");
    const int variant = loss.variant();
    if (variant == 2) {
      f(std::integral_constant<int, 2>());
    } else if (variant == 1) {
      f(std::integral_constant<int, 1>());
    } else {
      f(std::integral_constant<int, 0>());
    }
  }
}

template <int kVariant, class Loss, class E>
MLLOSS_HD auto evaluated(const Loss& loss, const E& e) {
  if constexpr (Loss::kVariants == 1) {
    return loss.evaluate(e);
  } else {
    return loss.template evaluate<kVariant>(e);
  }
}

// Whether some variant of an element-wise loss takes e^s.
template <class Loss>
constexpr bool takes_power() {
  if constexpr (Loss::kScope == Scope::kGroup) {
    return false;
  } else if constexpr (Loss::kVariants == 1) {
    return Loss::kLogistic == LogisticNeed::kPower;
  } else {
    return Loss::kNeeds[1] == LogisticNeed::kPower || Loss::kNeeds[2] == LogisticNeed::kPower;
  }
}

template <int kVariant, class Loss>
constexpr LogisticNeed need_of() {
  if constexpr (Loss::kVariants == 1) {
    return Loss::kLogistic;
  } else {
    return Loss::kNeeds[kVariant];
  }
}

template <class T, int kMaximaCount, int kSumsCount>
struct Statistics {
  Array<T, kMaximaCount> maxima;
  Array<T, kSumsCount> sums;
};

template <class Loss, class T>
using StatisticsOf = Statistics<T, Loss::kMaxima, Loss::kSums>;

// Merged by addition; empty for most losses.
template <class Loss, class T>
using SecondPassSums = Array<T, Loss::kSecondPassSums>;

template <class Loss, class T>
MLLOSS_HD StatisticsOf<Loss, T> identity() {
  StatisticsOf<Loss, T> stats{};
  for (int i = 0; i < Loss::kMaxima; ++i) stats.maxima[i] = Loss::initial_maximum();
  for (int i = 0; i < Loss::kSums; ++i) stats.sums[i] = T(0);
  return stats;
}

// Associative and commutative, up to rounding: tiles, warps, blocks, clusters and ranks all merge so.
template <class Loss, class T>
MLLOSS_HD void merge(StatisticsOf<Loss, T>& into, StatisticsOf<Loss, T> from) {
  if constexpr (Loss::kMaxima > 0) {
    Array<T, Loss::kMaxima> top;
    for (int i = 0; i < Loss::kMaxima; ++i) top[i] = maximum(from.maxima[i], into.maxima[i]);
    Loss::rescale(into.sums, into.maxima, top);
    Loss::rescale(from.sums, from.maxima, top);
    into.maxima = top;
  }
  for (int i = 0; i < Loss::kSums; ++i) into.sums[i] += from.sums[i];
}

// The group's coefficients and loss, from all that was summed.
template <class Loss, class T>
MLLOSS_HD Array<T, Loss::kCoefficients> finalize(const Loss& loss, const StatisticsOf<Loss, T>& stats,
                                                 const SecondPassSums<Loss, T>& second_sums, T& value) {
  if constexpr (Loss::kSecondPassSums > 0) {
    return loss.finalize(stats, second_sums, value);
  } else {
    return loss.finalize(stats, value);
  }
}

}  // namespace MLLOSS_ISA
}  // namespace mlloss
