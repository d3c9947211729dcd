// What a loss is to an engine: the vocabulary every functor in this folder is written in.
//
// A functor is a class template over the compute type T with
//   Functor(const double* parameters)
// and, derived from ElementWise,
//   evaluate(e)            -> {value, d value / d s}
//   kVariants              how many ways to evaluate it has, one of which, variant(), serves the parameters:
//                          evaluate<kVariant>(e) is then in the place of evaluate(e), kNeeds[kVariant] of kLogistic
//   kSeparates             whether a negative's value is rest + log(1 + x), 0 <= x <= 1: a sum then takes one logarithm
//                          for many elements; separates(labels have their own numbers): a positive's is, too
//     separated(e)         -> {rest, x, d value / d s}; kTail serves
//   kLabelParameter        whether e.parameter is the label's own of the caller's numbers (1 where it gave none)
//   kRawTargets            whether e.y is another logit, times logit_scale, and no target: any number, dense, the
//                          logits' dtype; Element::kSoft always
//   kLogistic              what it takes of the logistic function at s, or of e^s, by logistic_of() and its like,
//                          so that an engine may have it at hand
//   kDemanding             whether CUDA kernels of it take more registers than others, and so fewer blocks; sums of
//                          losses: 2, and more than two 3
//   kHeld                  whether there are CUDA kernels that hold a row (resident, cluster); of sums of losses
//                          there are none, for every kernel costs seconds of compilation
// or, derived from GroupWise (a row; for Dice also a label or everything),
//   kMaxima, kSums, kCoefficients
//   kAcrossRows    whether groups may be labels, or everything; then kMaxima and kLateSums are 0
//   kCompeting     whether labels compete for one softmax, and a label of weight 0 with them
//   maxima(e, m)           max-reduces e into m; each m starts at initial_maximum()
//   sums(e, m)             what e adds to the group's sums, with the maxima fixed at m
//   first_sums(e)          the same with every m at 0, where that saves work
//   kKeeps                 whether a first visit leaves a number for each element that the gradient follows from, for
//                          engines that have room for it:
//     first_sums(e, kept)      as above, and `kept` is set
//     kept_gradient(e, kept, c)  the gradient from it, if unshifted(c): if all maxima are 0
//   first_maxima(sums)     the maxima of first sums that are safe: 0, or where nothing was summed initial_maximum()
//   unsafe(sums)           the first sums overflowed or vanished: take them again with maxima
//   rescale(sums, from, to)  the sums, when the maxima move
//   finalize(stats, value) -> coefficients, and the group's loss
//   kLateSums      sums that can be taken only once the statistics are complete, on one more visit; if there are any:
//     settle(stats)                what they need of the statistics
//     late(e, settled)             what e adds to them; nothing where E::kNegative
//     finalize(stats, late, value) in place of finalize(stats, value)
//   scaled(c, factor)      coefficients of the gradient times factor
//   gradient(e, c)         -> d value / d s
//   unshifted_gradient(e, c)  the same if unshifted(c); for sums of losses on the CPU
//   usual(c)               whether usual_gradient(e, c) will do, where that saves work
// An element's weight is 1 unless the caller gave weights. An excluded one comes as s = y = w = 0, and where labels
// compete as s = -inf, w = 0; elsewhere a weight of 0 excludes too.
#pragma once

#include <type_traits>

#include "../core/numerics.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

enum class Scope { kElement, kGroup };
// kSigmoid need not be formed ahead. kPower is e^s, kTail e^-|s|, and kTwoTails has e^-|y| too.
enum class LogisticNeed { kNothing, kSigmoid, kPower, kTail, kTwoTails, kLogarithm };

// The base of every element-wise functor.
struct ElementWise {
  static constexpr Scope kScope = Scope::kElement;
  static constexpr LogisticNeed kLogistic = LogisticNeed::kNothing;
  static constexpr bool kLabelParameter = false, kAcrossRows = false, kCompeting = false, kRawTargets = false;
  static constexpr bool kHeld = false, kSeparates = false;
  static constexpr int kDemanding = 0, kVariants = 1;
  static constexpr int kMaxima = 0, kSums = 0, kLateSums = 0, kCoefficients = 0;
};

// The base of every functor with statistics.
struct GroupWise {
  static constexpr Scope kScope = Scope::kGroup;
  static constexpr LogisticNeed kLogistic = LogisticNeed::kNothing;
  static constexpr bool kLabelParameter = false, kAcrossRows = false, kCompeting = false, kRawTargets = false;
  static constexpr bool kHeld = true, kKeeps = false;
  static constexpr int kDemanding = 0;
  static constexpr int kLateSums = 0;

  // The default serves functors whose safe sums are never empty, or whose maxima start at 0.
  template <class Loss, class T>
  static MLLOSS_HD Array<T, Loss::kMaxima> first_maxima(const Array<T, Loss::kSums>&) {
    return {};
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
using LateSums = Array<T, Loss::kLateSums>;

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
MLLOSS_HD Array<T, Loss::kCoefficients> finish(const Loss& loss, const StatisticsOf<Loss, T>& stats,
                                               const LateSums<Loss, T>& late, T& value) {
  if constexpr (Loss::kLateSums > 0) {
    return loss.finalize(stats, late, value);
  } else {
    return loss.finalize(stats, value);
  }
}

}  // namespace MLLOSS_ISA
}  // namespace mlloss
