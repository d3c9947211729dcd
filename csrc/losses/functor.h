// The contract between a loss and the engines. Every loss in this folder is such a functor.
//
// A functor is a class template over the compute type T (double for float64 logits, else float). Its constructor is
// Functor(const double* parameters). It derives from one of these bases, which define the defaults; a functor states
// only what differs from them:
//   ElementWise                    each element has a loss of its own
//   GroupWise<Functor<T>>          a group of elements has one loss: a row, or for Dice also a label or the whole batch
//   GroupWiseWithoutMaxima<...>    the same for a loss whose sums need no maxima
//
// An element e has e.s, the logit after scale, bias and threshold; e.y, the target, which is 0 or 1 unless E::kSoft;
// e.w, the weight, which is 1 unless the caller gave weights; and e.parameter (see kLabelParameter). An excluded
// element comes as s = y = w = 0, or as s = -inf, w = 0 if kSoftmaxOverLabels. A weight of 0 also excludes an element,
// unless kSoftmaxOverLabels.
//
// Members of every functor
//   member                           needed if                 meaning
//   -------------------------------  ------------------------  --------------------------------------------------------
//   kLogistic                        it calls logistic_of(e,   the values of the logistic function or of e^s that it
//                                    ...) or a similar         reads, which an engine may compute in advance
//                                    function below
//   kSoftmaxOverLabels               the labels share one      an excluded label has s = -inf, and a label of weight 0
//                                    softmax                   still takes part in the softmax
//
// Members of an element-wise functor
//   member                           needed if                 meaning
//   -------------------------------  ------------------------  --------------------------------------------------------
//   evaluate(e)                      always                    returns {value, d value / d s}
//   kVariants, kNeeds, variant()     some parameters have a    evaluate<kVariant>(e) exists in kVariants variants and
//                                    faster formula            replaces evaluate(e). variant() is the one for these
//                                                              parameters. kNeeds[kVariant] replaces kLogistic.
//   kLabelParameter                  each label has a          e.parameter is the caller's number for the label, or 1
//                                    parameter                 without one
//   kSecondLogits                    it compares two logits    e.y is a second logit times logit_scale and may be any
//                                                              number. These "targets" are dense and have the logits'
//                                                              dtype, and E::kSoft is always true.
//   evaluate_both(e)                 kSecondLogits             returns {value, d value / d s, d value / d y}
//   kSeparates,                      many values can share     the value of a negative is rest + log(1 + x) with 0 <= x
//   separated(e),                    one logarithm             <= 1. separated(e) returns {rest, x, d value / d s} and
//   separates(given)                                           reads e^-|s|. separates(given) is true if this holds for
//                                                              positives too; `given` is true if the caller gave label
//                                                              parameters.
//   kNegatives,                      many negatives are less   negatives(s, factor, g, value) is for kCount negatives
//   serves_negatives(),              work than each alone, in  of weight 1 in float: it sets g to their gradients times
//   negatives<kCount>(...)           float                     factor, adds up their values in `value`, and returns
//                                                              true. It returns false if logits are too far from 0 for
//                                                              it; the results are then not used. Engines may
//                                                              call it if serves_negatives() is true.
//
// Members of a group functor. The statistics of a group are maxima, and sums of terms that are shifted by the maxima.
// An engine first takes the sums with all maxima at 0: this is less work, and enough for ordinary logits.
//   member                           needed if                 meaning
//   -------------------------------  ------------------------  --------------------------------------------------------
//   kMaxima, kSums, kCoefficients    always                    how many numbers of each kind a group has
//   sums(e, m)                       always                    the element's share of the sums, if the maxima are m
//   finalize(stats, value)           always                    returns the coefficients that the gradient needs, and
//                                                              sets `value` to the group's loss
//   scaled(c, factor)                always                    the coefficients of the gradient times factor
//   gradient(e, c)                   always                    d value / d s, from the group's coefficients
//   kAcrossRows                      a group may be a label    such a loss has no maxima and no sums of a second pass
//                                    or the whole batch
//   maxima(e, m)                     kMaxima > 0               raises the maxima m to those of the element
//   initial_maximum()                kMaxima > 0               the number that each maximum starts from
//   rescale(sums, from, to)          kMaxima > 0               shifts the sums from the maxima `from` to the maxima
//                                                              `to`
//   needs_max_shift(sums)            kMaxima > 0               true if the sums with all maxima at 0 overflowed or
//                                                              vanished. The engine then takes them again with
//                                                              maxima(e, m) and sums(e, m).
//   first_sums(e)                    it is less work           sums(e, m) with all m at 0. Default: calls sums(e, m)
//   first_maxima(sums)               a sum may be empty, and   the maxima that belong to sums with all maxima at 0: 0,
//                                    initial_maximum() is not  or initial_maximum() for a sum without elements.
//                                    0                         Default: 0
//   zero_maxima(c),                  kMaxima > 0               true if all maxima in the coefficients are 0. Engines
//   gradient_at_zero_maxima(e, c)                              may then call gradient_at_zero_maxima(e, c) in place of
//                                                              gradient(e, c), which it equals by default.
//   kKeeps,                          the gradient can reuse a  first_sums(e, kept) also sets `kept`, a number for each
//   first_sums(e, kept),             number from the first     element. If zero_maxima(c), then kept_gradient(e, kept,
//   kept_gradient(e, kept, c)        visit                     c) is the gradient. Engines use it if they have memory
//                                                              for these numbers.
//   kSlopes, slopes_serve(),         the gradient of a hard    sums_and_slope(e, slope) is first_sums(e) and also sets
//   sums_and_slope(e, slope),        target is a multiple of   `slope`, from 0 to 1/4. If slopes_serve(), then
//   slope_gradient(e, slope, c)      the element's slope       slope_gradient(e, slope, c) is the gradient. It reads no
//                                                              e.s, so that an engine may keep slopes in place of the
//                                                              logits, in as many bits.
//   kSecondPassSums,                 a sum needs the complete  how many sums are taken in a second pass over the row.
//   second_pass_input(stats),        statistics                second_pass_input(stats) is what they need of the
//   second_pass_sums(e, input)                                 statistics. Default: nothing. second_pass_sums(e, input)
//                                                              is the element's share, which is 0 if E::kNegative.
//                                                              finalize(stats, second_sums, value) replaces
//                                                              finalize(stats, value).
#pragma once

#include <type_traits>

#include "../core/numerics.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

enum class Scope { kElement, kGroup };

// The values of the logistic function or of e^s that a functor reads:
//   kSigmoid    the sigmoid at s; no engine computes it in advance for this need alone
//   kPower      e^s
//   kTail       e^-|s|
//   kTwoPowers  negated_power(s) and negated_power(y)
//   kLogarithm  the sigmoids at s and -s, and log(1 + e^-|s|)
enum class LogisticNeed { kNothing, kSigmoid, kPower, kTail, kTwoPowers, kLogarithm };

// The defaults that all functors share.
struct FunctorDefaults {
  static constexpr LogisticNeed kLogistic = LogisticNeed::kNothing;
  static constexpr bool kLabelParameter = false, kSecondLogits = false, kSoftmaxOverLabels = false, kAcrossRows = false,
                        kNegatives = false;
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
  static constexpr bool kKeeps = false, kSlopes = false;

  template <class E>
  MLLOSS_HD auto first_sums(const E& e) const {
    return self().sums(e, {});
  }

  template <class A, int kCount>
  static MLLOSS_HD auto first_maxima(const Array<A, kCount>&) {
    return Array<A, Loss::kMaxima>{};
  }

  template <class S>
  static MLLOSS_HD auto second_pass_input(const S&) {
    return Array<float, 0>{};
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
  static MLLOSS_HD bool zero_maxima(const C&) {
    return true;
  }
};

// kNegative: every target of the tile is 0, which is known at compile time. kHard: targets are 0 or 1. kSoft: targets
// are probabilities.
enum class Targets { kNegative, kHard, kSoft };

template <class T, Targets kTargets>
struct Element {
  static constexpr bool kSoft = kTargets == Targets::kSoft;
  // Functors test this to omit terms with y = 0, because compilers may not drop 0 * x.
  static constexpr bool kNegative = kTargets == Targets::kNegative;
  static constexpr bool kReady = false, kTailReady = false, kTwoReady = false;
  T s;  // the logit after scale, bias and threshold
  T y;
  T w;
  T parameter = T(1);
};

// An element with e^-|s| computed in advance.
template <class T, Targets kTargets>
struct TailElement : Element<T, kTargets> {
  static constexpr bool kTailReady = true;
  T tail;
};

// An element with negated_power() of both logits computed in advance.
template <class T, Targets kTargets>
struct TwoPowersElement : Element<T, kTargets> {
  static constexpr bool kTwoReady = true;
  Array<T, 2> powers;
};

// An element with values computed in advance: e^s, as logistic_power() returns it, and those parts of the logistic
// function that the functor reads.
template <class T, Targets kTargets>
struct ReadyElement : Element<T, kTargets> {
  static constexpr bool kReady = true;
  LogisticParts<T> parts;
  T power;
};

// Returns the logistic function at s, or at -s if `negated`.
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

// Returns negated_power() of s and of y.
template <class E>
MLLOSS_HD auto two_powers_of(const E& e) {
  if constexpr (E::kTwoReady) {
    return e.powers;
  } else {
    return Array<decltype(e.s * 1), 2>{{negated_power(e.s), negated_power(e.y)}};
  }
}

template <class E>
MLLOSS_HD auto sigmoid_and_slope_of(const E& e) {
  if constexpr (E::kReady) {
    using T = decltype(e.parts.l * 1);
    return SigmoidAndSlope<T>{e.parts.sigmoid, slope_from(e.parts)};
  } else if constexpr (E::kTailReady) {
    return sigmoid_and_slope_from(e.s, e.tail);
  } else {
    return sigmoid_and_slope(e.s);
  }
}

// Returns e^s, or e^-s if `negated`. A value that was computed in advance is at most e^87 in float.
template <class E>
MLLOSS_HD auto power_of(const E& e, bool negated) {
  if constexpr (E::kReady) {
    return negated ? flushed(reciprocal(e.power)) : e.power;
  } else {
    return exponential(negated ? -e.s : e.s);
  }
}

// Returns e^s, at most e^87 in float.
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

// A value and its gradients in both logits.
template <class T>
struct ValueAndGradients {
  T value, gradient, other;
};

// A value in two parts, rest + log(1 + x), and its gradient.
template <class T>
struct Separated {
  T rest, x, gradient;
};

// Returns the expectation over a probability y of a loss that is defined for labels. Terms are selected and not
// multiplied: if y is 0 or 1, the other term may be 0 * inf.
template <class T>
MLLOSS_HD ValueAndGradient<T> expectation(T y, ValueAndGradient<T> positive, ValueAndGradient<T> negative) {
  const T no = T(1) - y;
  return {(y > T(0) ? y * positive.value : T(0)) + (y < T(1) ? no * negative.value : T(0)),
          (y > T(0) ? y * positive.gradient : T(0)) + (y < T(1) ? no * negative.gradient : T(0))};
}

// Calls f with the variant that serves the loss's parameters. It is called once, outside a loop; f then calls
// evaluated<variant>(loss, e).
template <class Loss, class F>
MLLOSS_HD void with_variant(const Loss& loss, F f) {
  if constexpr (Loss::kVariants == 1) {
    f(std::integral_constant<int, 0>());
  } else {
    static_assert(Loss::kVariants == 3, "the branches below cover three variants");
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

// True if some variant of an element-wise loss reads e^s.
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

// Sums of the second pass, which are merged by addition. Most losses have none.
template <class Loss, class T>
using SecondPassSums = Array<T, Loss::kSecondPassSums>;

template <class Loss, class T>
MLLOSS_HD StatisticsOf<Loss, T> identity() {
  StatisticsOf<Loss, T> stats{};
  for (int i = 0; i < Loss::kMaxima; ++i) stats.maxima[i] = Loss::initial_maximum();
  for (int i = 0; i < Loss::kSums; ++i) stats.sums[i] = T(0);
  return stats;
}

// Merges two statistics. The operation is associative and commutative up to rounding, so tiles, warps, blocks, teams
// and ranks all use it.
template <class Loss, class T>
MLLOSS_HD void merge(StatisticsOf<Loss, T>& into, StatisticsOf<Loss, T> from) {
  if constexpr (Loss::kMaxima > 0) {
    auto top = into.maxima;
    for (int i = 0; i < Loss::kMaxima; ++i) top[i] = maximum(from.maxima[i], top[i]);
    Loss::rescale(into.sums, into.maxima, top);
    Loss::rescale(from.sums, from.maxima, top);
    into.maxima = top;
  }
  for (int i = 0; i < Loss::kSums; ++i) into.sums[i] += from.sums[i];
}

// Returns the coefficients of a group and sets `value` to its loss, with the second-pass sums if the loss has any.
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
