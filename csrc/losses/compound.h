// A sum of losses as one functor, for engines that are built for certain sums. The statistics of the terms are
// adjacent, and their gradients are added. Each term has a block of parameters: its coefficient, then its own
// parameters.
//
// The statistic of an element-wise term is its value in the row. The coefficients end with the values of the terms,
// which callers may log; scaled() replaces these values by the factor that element-wise terms need for their gradient.
#pragma once

#include <utility>

#include "../core/params.h"
#include "bce.h"
#include "compounds.h"
#include "dice.h"
#include "focal.h"
#include "zlpr.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

namespace compound {

// Returns kCount elements of an array from kFrom on. The elements are listed one by one, because compilers take minutes
// for loops over them.
template <int kFrom, class T, int kSize, size_t... I>
MLLOSS_HD Array<T, static_cast<int>(sizeof...(I))> part_at(const Array<T, kSize>& all, std::index_sequence<I...>) {
  return {{all.v[kFrom + static_cast<int>(I)]...}};
}

template <int kFrom, int kCount, class T, int kSize>
MLLOSS_HD Array<T, kCount> part(const Array<T, kSize>& all) {
  return part_at<kFrom>(all, std::make_index_sequence<kCount>());
}

template <class T, int kFirst, int kRest, size_t... I, size_t... J>
MLLOSS_HD Array<T, kFirst + kRest> joined_at(const Array<T, kFirst>& first, const Array<T, kRest>& rest,
                                             std::index_sequence<I...>, std::index_sequence<J...>) {
  return {{first.v[I]..., rest.v[J]...}};
}

template <class T, int kFirst, int kRest>
MLLOSS_HD Array<T, kFirst + kRest> joined(const Array<T, kFirst>& first, const Array<T, kRest>& rest) {
  return joined_at(first, rest, std::make_index_sequence<kFirst>(), std::make_index_sequence<kRest>());
}

// A term as a group functor. gradient<true>() serves if all maxima in the coefficients are 0. Its `factor` is for an
// element-wise term, which has no coefficients to hold it.
template <class T, template <class> class LossTemplate>
class TermFunctor {
  using Loss = LossTemplate<T>;

 public:
  static constexpr bool kElement = Loss::kScope == Scope::kElement;
  static constexpr int kMaxima = Loss::kMaxima, kSums = kElement ? 1 : Loss::kSums;
  static constexpr int kCoefficients = Loss::kCoefficients;
  static_assert(!Loss::kSoftmaxOverLabels, "an excluded label looks different to a loss with a softmax over labels");

  explicit MLLOSS_HD TermFunctor(const double* block) : coefficient_(static_cast<T>(block[0])), loss_(block + 1) {}

  static MLLOSS_HD T initial_maximum() {
    if constexpr (kMaxima > 0) return Loss::initial_maximum();
    return T(0);
  }

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, kMaxima>& m) const {
    if constexpr (!kElement) loss_.maxima(e, m);
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> sums(E e, Array<T, kMaxima> m) const {
    if constexpr (kElement) {
      return {{e.w * evaluated(e).value}};
    } else {
      return loss_.sums(e, m);
    }
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> first_sums(E e) const {
    if constexpr (kElement) {
      return sums(e, {});
    } else {
      return loss_.first_sums(e);
    }
  }

  MLLOSS_HD bool needs_max_shift(Array<T, kSums> sums) const {
    if constexpr (kElement) {
      return false;
    } else {
      return loss_.needs_max_shift(sums);
    }
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, kSums>& sums, Array<A, kMaxima> from, Array<A, kMaxima> to) {
    if constexpr (!kElement) Loss::rescale(sums, from, to);
  }

  // The coefficients include the term's coefficient in the sum.
  template <class A>
  MLLOSS_HD Array<A, kCoefficients> finalize(Statistics<A, kMaxima, kSums> stats, A& value) const {
    if constexpr (kElement) {
      value = stats.sums[0];
      return {};
    } else {
      return LossTemplate<A>::scaled(loss_.finalize(stats, value), static_cast<A>(coefficient_));
    }
  }

  static MLLOSS_HD Array<T, kCoefficients> scaled(Array<T, kCoefficients> c, T factor) {
    if constexpr (kElement) {
      return c;
    } else {
      return Loss::scaled(c, factor);
    }
  }

  static MLLOSS_HD bool zero_maxima(Array<T, kCoefficients> c) {
    if constexpr (kElement) {
      return true;
    } else {
      return Loss::zero_maxima(c);
    }
  }

  template <bool kZeroMaxima, class E>
  MLLOSS_HD T gradient(E e, Array<T, kCoefficients> c, T factor) const {
    if constexpr (kElement) {
      return evaluated(e).gradient * (e.w * (coefficient_ * factor));
    } else if constexpr (kZeroMaxima) {
      return loss_.gradient_at_zero_maxima(e, c);
    } else {
      return loss_.gradient(e, c);
    }
  }

  MLLOSS_HD T coefficient() const { return coefficient_; }

 private:
  T coefficient_;
  Loss loss_;

  template <class E>
  MLLOSS_HD ValueAndGradient<T> evaluated(const E& e) const {
    ValueAndGradient<T> r;
    with_variant(loss_, [&](auto variant) { r = mlloss::evaluated<variant>(loss_, e); });
    return r;
  }
};

// The empty sum, which follows the last term.
template <class T>
struct NoTerms {
  static constexpr int kTerms = 0, kMaxima = 0, kSums = 0, kOwn = 0, kCoefficients = 0;

  explicit MLLOSS_HD NoTerms(const double*) {}
  static MLLOSS_HD T initial_maximum() { return T(0); }
  template <class E>
  MLLOSS_HD void maxima(E, Array<T, 0>&) const {}
  template <class E>
  MLLOSS_HD Array<T, 0> sums(E, Array<T, 0>) const {
    return {};
  }
  template <class E>
  MLLOSS_HD Array<T, 0> first_sums(E) const {
    return {};
  }
  MLLOSS_HD bool needs_max_shift(Array<T, 0>) const { return false; }
  template <class A>
  static MLLOSS_HD void rescale(Array<A, 0>&, Array<A, 0>, Array<A, 0>) {}
  template <class A>
  MLLOSS_HD Array<A, 0> finalize(Statistics<A, 0, 0>, A& value) const {
    value = A(0);
    return {};
  }
  static MLLOSS_HD Array<T, 0> scaled(Array<T, 0> c, T) { return c; }
  static MLLOSS_HD bool zero_maxima(Array<T, 0>) { return true; }
  template <bool kZeroMaxima, class E>
  MLLOSS_HD T sum_of_gradients(E, Array<T, 0>) const {
    return T(0);
  }
};

}  // namespace compound

template <class T, template <class> class... Losses>
class Compound;

template <class T>
class Compound<T> : public compound::NoTerms<T> {
 public:
  using compound::NoTerms<T>::NoTerms;
};

// The first term and the sum of the others. All terms with maxima must have the same initial_maximum(), because engines
// know only one.
template <class T, template <class> class FirstLoss, template <class> class... Others>
class Compound<T, FirstLoss, Others...> : public GroupWise<Compound<T, FirstLoss, Others...>> {
  using First = compound::TermFunctor<T, FirstLoss>;
  using Rest = Compound<T, Others...>;

 public:
  static constexpr int kTerms = 1 + Rest::kTerms;
  static constexpr int kMaxima = First::kMaxima + Rest::kMaxima, kSums = First::kSums + Rest::kSums;
  // The coefficients of all terms come first, then the values of all terms.
  static constexpr int kOwn = First::kCoefficients + Rest::kOwn, kCoefficients = kOwn + kTerms;

  explicit MLLOSS_HD Compound(const double* parameters) : first_(parameters), rest_(parameters + kTermParameters) {}

  static MLLOSS_HD T initial_maximum() {
    return First::kMaxima > 0 ? First::initial_maximum() : Rest::initial_maximum();
  }

  template <class E>
  MLLOSS_HD void maxima(E e, Array<T, kMaxima>& m) const {
    auto first = first_of(m);
    auto rest = rest_of(m);
    first_.maxima(e, first);
    rest_.maxima(e, rest);
    m = compound::joined(first, rest);
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> sums(E e, Array<T, kMaxima> m) const {
    return compound::joined(first_.sums(e, first_of(m)), rest_.sums(e, rest_of(m)));
  }

  template <class E>
  MLLOSS_HD Array<T, kSums> first_sums(E e) const {
    return compound::joined(first_.first_sums(e), rest_.first_sums(e));
  }

  MLLOSS_HD bool needs_max_shift(Array<T, kSums> sums) const {
    return first_.needs_max_shift(compound::part<0, First::kSums>(sums)) ||
           rest_.needs_max_shift(compound::part<First::kSums, Rest::kSums>(sums));
  }

  template <class A>
  static MLLOSS_HD void rescale(Array<A, kSums>& sums, Array<A, kMaxima> from, Array<A, kMaxima> to) {
    auto first = compound::part<0, First::kSums>(sums);
    auto rest = compound::part<First::kSums, Rest::kSums>(sums);
    First::rescale(first, first_of(from), first_of(to));
    Rest::rescale(rest, rest_of(from), rest_of(to));
    sums = compound::joined(first, rest);
  }

  template <class A>
  MLLOSS_HD Array<A, kCoefficients> finalize(Statistics<A, kMaxima, kSums> stats, A& value) const {
    A first_value, rest_value;
    const auto first =
        first_.finalize(Statistics<A, First::kMaxima, First::kSums>{first_of(stats.maxima),
                                                                    compound::part<0, First::kSums>(stats.sums)},
                        first_value);
    const auto rest =
        rest_.finalize(Statistics<A, Rest::kMaxima, Rest::kSums>{rest_of(stats.maxima),
                                                                 compound::part<First::kSums, Rest::kSums>(stats.sums)},
                       rest_value);
    value = static_cast<A>(first_.coefficient()) * first_value + rest_value;
    return assembled(first, first_value, rest);
  }

  // Replaces the values of the terms by the factor.
  static MLLOSS_HD Array<T, kCoefficients> scaled(Array<T, kCoefficients> c, T factor) {
    return assembled(First::scaled(own_of(c), factor), factor, Rest::scaled(others_of(c), factor));
  }

  template <class E>
  MLLOSS_HD T gradient(E e, Array<T, kCoefficients> c) const {
    return sum_of_gradients<false>(e, c);
  }

  static MLLOSS_HD bool zero_maxima(Array<T, kCoefficients> c) {
    return First::zero_maxima(own_of(c)) && Rest::zero_maxima(others_of(c));
  }

  template <class E>
  MLLOSS_HD T gradient_at_zero_maxima(E e, Array<T, kCoefficients> c) const {
    return sum_of_gradients<true>(e, c);
  }

  template <bool kZeroMaxima, class E>
  MLLOSS_HD T sum_of_gradients(E e, Array<T, kCoefficients> c) const {
    return first_.template gradient<kZeroMaxima>(e, own_of(c), c[kOwn]) +
           rest_.template sum_of_gradients<kZeroMaxima>(e, others_of(c));
  }

 private:
  First first_;
  Rest rest_;

  template <class A>
  static MLLOSS_HD Array<A, First::kMaxima> first_of(const Array<A, kMaxima>& m) {
    return compound::part<0, First::kMaxima>(m);
  }

  template <class A>
  static MLLOSS_HD Array<A, Rest::kMaxima> rest_of(const Array<A, kMaxima>& m) {
    return compound::part<First::kMaxima, Rest::kMaxima>(m);
  }

  static MLLOSS_HD Array<T, First::kCoefficients> own_of(const Array<T, kCoefficients>& c) {
    return compound::part<0, First::kCoefficients>(c);
  }

  static MLLOSS_HD Array<T, Rest::kCoefficients> others_of(const Array<T, kCoefficients>& c) {
    return compound::joined(compound::part<First::kCoefficients, Rest::kOwn>(c),
                            compound::part<kOwn + 1, Rest::kTerms>(c));
  }

  template <class A>
  static MLLOSS_HD Array<A, kCoefficients> assembled(const Array<A, First::kCoefficients>& first, A value,
                                                     const Array<A, Rest::kCoefficients>& rest) {
    const auto own = compound::joined(first, compound::part<0, Rest::kOwn>(rest));
    const auto values = compound::joined(Array<A, 1>{{value}}, compound::part<Rest::kOwn, Rest::kTerms>(rest));
    return compound::joined(own, values);
  }
};

template <class T>
using BceAndDice = Compound<T, Bce, Dice>;
template <class T>
using DiceAndFocal = Compound<T, Dice, SigmoidFocal>;
template <class T>
using DiceAndFocalAndZlpr = Compound<T, Dice, SigmoidFocal, Zlpr>;
template <class T>
using DiceAndZlpr = Compound<T, Dice, Zlpr>;
template <class T>
using FocalAndZlpr = Compound<T, SigmoidFocal, Zlpr>;

}  // namespace MLLOSS_ISA
}  // namespace mlloss
