// A sum of losses in one pass: each term processes a tile while it is in cache. The sum is chosen at run time and may
// have any terms. A term is a table of functions over a tile, which is made from its functor.
#pragma once

#include <algorithm>

#include "engine_base.h"
#include "fused.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <class T>
struct TermFunctions {
  bool element_wise, softmax_over_labels;
  int statistics, coefficients;  // an element-wise term has one statistic, its value
  void (*initial)(double* statistics);
  void (*add)(const double* parameters, const Tile<T>& tile, double* statistics);
  void (*merge)(double* statistics, const double* from);
  // Returns the value, and stores coefficients that include the term's coefficient in the sum.
  double (*finalize)(const TermPlace& term, const double* statistics, double* coefficients);
  // Forms gradients times f, and returns the sum of the values if `value`.
  double (*evaluate)(const double* parameters, const Tile<T>& tile, T f, bool value, T* g);
  void (*gradient)(const double* parameters, const Tile<T>& tile, const T* coefficients, int64_t stride, T f, T* g);
};

template <template <class> class LossTemplate, class T>
struct ElementTerm {
  using Math = TileMath<LossTemplate, T>;

  static void initial(double* statistics) { statistics[0] = 0.0; }
  static void add(const double* parameters, const Tile<T>& tile, double* statistics) {
    statistics[0] += evaluate(parameters, tile, T(0), true, nullptr);
  }
  static void merge(double* statistics, const double* from) { statistics[0] += from[0]; }
  static double finalize(const TermPlace&, const double* statistics, double*) { return statistics[0]; }
  static double evaluate(const double* parameters, const Tile<T>& tile, T f, bool value, T* g) {
    if (value) return Math(parameters).sum_values(tile, f, g);
    Math(parameters).evaluate(tile, f, nullptr, g);
    return 0.0;
  }
  static constexpr TermFunctions<T> table() {
    return {true, false, 1, 0, initial, add, merge, finalize, evaluate, nullptr};
  }
};

template <template <class> class LossTemplate, class T>
struct GroupTerm {
  using Math = TileMath<LossTemplate, T>;
  using Loss = typename Math::Loss;
  using Wide = typename Math::Wide;
  using Statistics = typename Math::WideStatistics;
  static constexpr int kCount = Loss::kMaxima + Loss::kSums;

  static Statistics load(const double* from) {
    Statistics stats;
    for (int k = 0; k < Loss::kMaxima; ++k) stats.maxima[k] = from[k];
    for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] = from[Loss::kMaxima + k];
    return stats;
  }
  static void store(const Statistics& stats, double* to) {
    for (int k = 0; k < Loss::kMaxima; ++k) to[k] = stats.maxima[k];
    for (int k = 0; k < Loss::kSums; ++k) to[Loss::kMaxima + k] = stats.sums[k];
  }
  static void join(double* statistics, const Statistics& from) {
    Statistics stats = load(statistics);
    mlloss::merge<Wide, double>(stats, from);
    store(stats, statistics);
  }

  static void initial(double* statistics) { store(identity<Wide, double>(), statistics); }
  static void add(const double* parameters, const Tile<T>& tile, double* statistics) {
    join(statistics, Math(parameters).statistics(tile, nullptr));
  }
  static void merge(double* statistics, const double* from) { join(statistics, load(from)); }
  static double finalize(const TermPlace& term, const double* statistics, double* coefficients) {
    double value;
    const auto c = Wide::scaled(Wide(term.parameters()).finalize(load(statistics), value), term.coefficient());
    for (int k = 0; k < Loss::kCoefficients; ++k) coefficients[k] = c[k];
    return value;
  }
  static void gradient(const double* parameters, const Tile<T>& tile, const T* coefficients, int64_t stride, T f,
                       T* g) {
    typename Math::Coefficients c;
    for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = coefficients[k * stride];
    Math(parameters).gradient(tile, Loss::scaled(c, f), nullptr, g);
  }
  static constexpr TermFunctions<T> table() {
    return {false,   Loss::kSoftmaxOverLabels, kCount, Loss::kCoefficients, initial, add, merge, finalize, nullptr,
            gradient};
  }
};

// Returns the functions of a loss, or an empty table if it cannot be part of a sum.
template <template <class> class Loss, class T>
constexpr TermFunctions<T> term_of() {
  if constexpr (Loss<T>::kSecondPassSums > 0 || Loss<T>::kSecondLogits) {
    return {};
  } else if constexpr (Loss<T>::kScope == Scope::kElement) {
    return ElementTerm<Loss, T>::table();
  } else {
    return GroupTerm<Loss, T>::table();
  }
}

// A sum that has one loop for all terms: the places of its terms in the registry, and the functions of that loop.
template <class T>
struct FusedSum {
  int terms[kMostTerms], count;
  FusedFunctions<T> math;
};

// `kTerms`: every loss, in the order of the registry. `kFused`: the fused sums, ended by an entry without terms.
template <class T, const TermFunctions<T>* kTerms, const FusedSum<T>* kFused>
class CompoundEngine : EngineBase<T> {
  using Work = cpu::Work;
  static constexpr int kMostStatistics = 8;  // per term

 public:
  static void rows(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    const bool gradients = compound.wants_gradient(), elements_too = compound.elements_too();
    Tiles tiles;
    ZeroTiles zeros;
    double statistics[kMostTerms * kMostStatistics], values[kMostTerms];
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * compound.tiles_, last = first + compound.tiles_;
      T* const powers = compound.fused_ && compound.any_groups_ ? compound.kept_of_row(row) : nullptr;
      compound.initial(statistics);
      const bool visited = elements_too || compound.any_groups_;
      if (visited) {
        compound.for_units(first, last, [&](int64_t, int64_t, int64_t label, int size) {
          compound.read(row, label, size, tiles);
          zeros.set(label, tiles.own.zeros);
          compound.add(tiles, elements_too, powers ? powers + label : nullptr, statistics);
        });
      }
      compound.finalize_row(row, statistics, values);
      if (gradients || !elements_too) {
        compound.for_units(first, last, [&](int64_t unit, int64_t, int64_t label, int size) {
          if (!gradients && !compound.any_elements_) return;
          compound.read(row, label, size, tiles, visited && zeros.at(label));
          if (gradients) {
            compound.gradient_of_unit(unit, row, label, powers ? powers + label : nullptr, tiles, values);
          } else {
            compound.add_element_values(row, tiles, values);
          }
        });
      }
      compound.store_value(row, values);
    }
  }

  static void statistics(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    const bool elements_too = compound.elements_too();
    Tiles tiles;
    compound.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      double* own = compound.statistics_of_unit(unit);
      compound.initial(own);
      if (!elements_too && !compound.any_groups_) return;
      compound.read(row, label, size, tiles);
      compound.add(tiles, elements_too, compound.powers_of_unit(row, label), own);
    });
  }

  static void merge(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    double statistics[kMostTerms * kMostStatistics];
    for (int64_t row = begin; row < end; ++row) {
      compound.merge_units(row, statistics);
      double* out = work.group_statistics + row;
      for (int k = 0; k < compound.total_statistics_; ++k) out[k * work.call->rows] = statistics[k];
    }
  }

  static void finalize(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    double statistics[kMostTerms * kMostStatistics], values[kMostTerms];
    for (int64_t row = begin; row < end; ++row) {
      compound.merge_units(row, statistics);
      compound.finalize_row(row, statistics, values);
      compound.store_value(row, values);
    }
  }

  // Runs alone, or after `finalize` of the same call, to which it adds the values of element-wise terms.
  static void gradient(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    Tiles tiles;
    compound.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      double values[kMostTerms] = {};
      const T* const powers = compound.powers_of_unit(row, label);
      compound.read(row, label, size, tiles);
      compound.gradient_of_unit(unit, row, label, powers, tiles, work.forward ? values : nullptr);
      if (work.forward) compound.store_element_values(unit, values);
    });
  }

  static void element_values(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    if (compound.elements_too() || !compound.any_elements_) return;
    Tiles tiles;
    compound.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      double values[kMostTerms] = {};
      compound.read(row, label, size, tiles);
      compound.add_element_values(row, tiles, values);
      compound.store_element_values(unit, values);
    });
  }

  static void label_gradient(const Work& work, int64_t begin, int64_t end) {
    const CompoundEngine compound(work);
    Tiles tiles;
    alignas(64) T g[kTile];
    alignas(64) double sum[kTile];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t label = t * kTile;
      const int size = compound.tile_size(t);
      memset(sum, 0, sizeof(sum));
      for (int64_t row = 0; row < work.call->rows; ++row) {
        compound.read(row, label, size, tiles);
        compound.form(row, tiles, nullptr, compound.factor_at(row, label), nullptr, g);
        compound.finish_gradient(tiles.own, row, label, g);
        for (int j = 0; j < size; ++j) sum[j] += static_cast<double>(g[j]);
      }
      T* out = static_cast<T*>(work.backward->label_gradient) + label;
      for (int j = 0; j < size; ++j) out[j] = static_cast<T>(sum[j]);
    }
  }

 private:
  // A loss with a softmax over labels needs other values for excluded labels, so a sum of both kinds needs two tiles.
  struct Tiles {
    Tile<T> own, plain;
  };

  const TileReader<T> plain_reader_;
  const TermFunctions<T>* math_[kMostTerms];
  TermPlace terms_[kMostTerms];
  const FusedFunctions<T>* fused_ = nullptr;
  const int count_;
  int total_statistics_ = 0, total_coefficients_ = 0;
  bool any_groups_ = false, any_elements_ = false, mixed_ = false;

  static bool any_softmax_over_labels(const Work& work) {
    bool any = false;
    for (int i = 0; i < work.term_count; ++i) any |= kTerms[work.terms[i]].softmax_over_labels;
    return any;
  }

  explicit CompoundEngine(const Work& work)
      : EngineBase<T>(work, any_softmax_over_labels(work), false),
        plain_reader_(*work.call, false, false),
        count_(work.term_count) {
    for (int i = 0; i < count_; ++i) {
      const TermFunctions<T>* math = &kTerms[work.terms[i]];
      const double* block = work.call->parameters.values + i * kTermParameters;
      math_[i] = math;
      terms_[i] = {block, total_statistics_, total_coefficients_};
      total_statistics_ += math->statistics;
      total_coefficients_ += math->coefficients;
      any_groups_ |= !math->element_wise;
      any_elements_ |= math->element_wise;
      mixed_ |= this->reader_.softmax_over_labels() && !math->softmax_over_labels;
    }
    for (const FusedSum<T>* sum = kFused; sum->count > 0; ++sum) {
      if (std::equal(sum->terms, sum->terms + sum->count, work.terms, work.terms + count_)) fused_ = &sum->math;
    }
  }

  // Element-wise terms are evaluated once: with the statistics if this returns true, or else after `finalize`, with the
  // gradient or by the fused loop. A part of the labels has its values in its statistics.
  bool elements_too() const { return !this->work_.forward || (!this->wants_gradient() && !fused_); }

  // Returns the memory that carries e^s of a tile from `statistics` to `gradient`, or null.
  T* powers_of_unit(int64_t row, int64_t label) const {
    return fused_ && any_groups_ ? this->kept_in_gradient(row, label) : nullptr;
  }

  double* statistics_of_unit(int64_t unit) const { return this->work_.unit_statistics + unit * total_statistics_; }

  // The statistic of an element-wise term is its value.
  void store_element_values(int64_t unit, const double* values) const {
    double* own = statistics_of_unit(unit);
    for (int i = 0; i < count_; ++i) {
      if (math_[i]->element_wise) own[terms_[i].statistics] = values[i];
    }
  }

  template <class F>
  void each(F f) const {
    for (int i = 0; i < count_; ++i) f(*math_[i], terms_[i]);
  }

  void initial(double* statistics) const {
    each([&](const TermFunctions<T>& math, const TermPlace& term) { math.initial(statistics + term.statistics); });
  }

  void merge_units(int64_t row, double* statistics) const {
    initial(statistics);
    for (int64_t unit = row * this->tiles_; unit < (row + 1) * this->tiles_; ++unit) {
      const double* from = statistics_of_unit(unit);
      each([&](const TermFunctions<T>& math, const TermPlace& term) {
        math.merge(statistics + term.statistics, from + term.statistics);
      });
    }
  }

  void read(int64_t row, int64_t label, int size, Tiles& tiles, bool zeros = false) const {
    this->reader_.read(row, label, size, tiles.own, zeros);
    if (mixed_) plain_reader_.read(row, label, size, tiles.plain, zeros);
  }

  const Tile<T>& tile_for(const TermFunctions<T>& math, const Tiles& tiles) const {
    return mixed_ && !math.softmax_over_labels ? tiles.plain : tiles.own;
  }

  void add(const Tiles& tiles, bool elements_too, T* powers, double* statistics) const {
    double own[kMostTerms * kMostStatistics];
    const bool at_once = fused_ && !elements_too && fused_->statistics(terms_, tiles.own, powers, own);
    each([&](const TermFunctions<T>& math, const TermPlace& term) {
      if (math.element_wise && !elements_too) return;
      if (at_once) {
        math.merge(statistics + term.statistics, own + term.statistics);
      } else {
        math.add(term.parameters(), tile_for(math, tiles), statistics + term.statistics);
      }
    });
  }

  // Stores each term's coefficients, and computes each term's value as far as the statistics contain it.
  void finalize_row(int64_t row, const double* statistics, double* values) const {
    T* out = static_cast<T*>(this->work_.forward->coefficients) + row;
    double own[kMostStatistics];
    for (int i = 0; i < count_; ++i) {
      const TermPlace& term = terms_[i];
      values[i] = math_[i]->finalize(term, statistics + term.statistics, own);
      for (int k = 0; k < math_[i]->coefficients; ++k) {
        out[(term.coefficients + k) * this->call_.rows] = static_cast<T>(own[k]);
      }
    }
  }

  void store_value(int64_t row, const double* values) const {
    T* out = static_cast<T*>(this->work_.forward->coefficients) + total_coefficients_ * this->call_.rows + row;
    double value = 0.0;
    for (int i = 0; i < count_; ++i) {
      value += terms_[i].coefficient() * values[i];
      out[i * this->call_.rows] = static_cast<T>(values[i]);
    }
    value = this->weighted(row, value);
    this->work_.unit_values[row] = value;
    if (this->work_.forward->values) static_cast<T*>(this->work_.forward->values)[row] = static_cast<T>(value);
  }

  // Forms the sum of the terms' gradients times f. Unless null, `values` grow by the values of element-wise terms.
  void form(int64_t row, const Tiles& tiles, const T* powers, T f, double* values, T* g) const {
    const int64_t rows = this->call_.rows;
    if (fused_ && fused_->form(terms_, tiles.own, powers, this->coefficients() + row, rows, f, values, g)) return;
    alignas(64) T part[kTile];
    for (int i = 0; i < count_; ++i) {
      const TermPlace& term = terms_[i];
      const TermFunctions<T>& math = *math_[i];
      const Tile<T>& tile = tile_for(math, tiles);
      T* own = i == 0 ? g : part;
      if (math.element_wise) {
        const T factor = f * static_cast<T>(term.coefficient());
        const double value = math.evaluate(term.parameters(), tile, factor, values != nullptr, own);
        if (values) values[i] += value;
      } else {
        math.gradient(term.parameters(), tile, this->coefficients() + term.coefficients * rows + row, rows, f, own);
      }
      if (i == 0) continue;
      for (int j = 0; j < tile.size; ++j) g[j] += part[j];
    }
  }

  // Adds the values of element-wise terms, equal to the last bit to what `form` adds.
  void add_element_values(int64_t row, const Tiles& tiles, double* values) const {
    if (fused_->values(terms_, tiles.own, this->coefficients() + row, this->call_.rows, values)) return;
    for (int i = 0; i < count_; ++i) {
      if (!math_[i]->element_wise) continue;
      values[i] += math_[i]->evaluate(terms_[i].parameters(), tile_for(*math_[i], tiles), T(1), true, nullptr);
    }
  }

  // With an in-place gradient, the sum is formed in a buffer: later terms would otherwise read the gradients of earlier
  // ones as logits. `powers` is e^s of the tile, which the first visit stored, or null.
  void gradient_of_unit(int64_t unit, int64_t row, int64_t label, const T* powers, const Tiles& tiles,
                        double* values) const {
    alignas(64) T buffer[kTile];
    const bool beside = !fused_ || this->gradient_memory() == this->call_.logits;
    T* const g = beside ? buffer : this->gradient_target(row, label, buffer);
    form(row, tiles, powers, this->folded_factor(row, label), values, g);
    this->write_gradient(tiles.own, unit, row, label, g);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
