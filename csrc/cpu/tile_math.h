// One functor over one tile: every loop that must vectorise. It knows nothing of rows, calls and outputs.
#pragma once

#include "tile.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

// Elements that are added up before the sum goes a level up: short chains, for many equal terms round
// to the same side.
constexpr int kRun = 512;

template <class T>
double sum_of(const T* x, int size) {
  double sum = 0.0;
  for (int begin = 0; begin < size; begin += kRun) {
    const int end = begin + kRun < size ? begin + kRun : size;
    T run = T(0);
#pragma omp simd reduction(+ : run)
    for (int j = begin; j < end; ++j) run += x[j];
    sum += static_cast<double>(run);
  }
  return sum;
}

template <Targets kTargets, bool kWeighted>
struct TileKind {};

// Calls f with the tile's kind as a type, so that what is constant in a tile is constant to the compiler.
template <class T, class F>
MLLOSS_HD void with_kind(const Tile<T>& tile, F f) {
  if (tile.targets == Targets::kSoft) {
    tile.weighted ? f(TileKind<Targets::kSoft, true>()) : f(TileKind<Targets::kSoft, false>());
  } else if (tile.targets == Targets::kHard) {
    tile.weighted ? f(TileKind<Targets::kHard, true>()) : f(TileKind<Targets::kHard, false>());
  } else {
    tile.weighted ? f(TileKind<Targets::kNegative, true>()) : f(TileKind<Targets::kNegative, false>());
  }
}

template <Targets kTargets, bool kWeighted, class T>
MLLOSS_HD Element<T, kTargets> element(const T* s, const T* y, const T* w, int j) {
  return {s[j], kTargets == Targets::kNegative ? T(0) : y[j], kWeighted ? w[j] : T(1)};
}

template <template <class> class LossTemplate, class T>
class TileMath {
 public:
  using Loss = LossTemplate<T>;
  // Statistics of whole groups are kept in double: it costs nothing, a tile adds up in T.
  using Wide = LossTemplate<double>;
  using WideStatistics = StatisticsOf<Wide, double>;
  using Coefficients = Array<T, Loss::kCoefficients>;

  explicit TileMath(const double* parameters) : parameters_(parameters) {}

  // ---- element-wise losses -------------------------------------------------------------------

  // Values, and gradients times f; null: not wanted. The gradient may overwrite the logits it is formed from.
  void evaluate(const Tile<T>& tile, T f, T* values, T* g) const {
    if constexpr (Loss::kScope == Scope::kElement) {
      with_kind(tile, [&](auto kind) {
        if (!values) {
          evaluate_as<false, true>(kind, tile, f, values, g);
        } else if (g) {
          evaluate_as<true, true>(kind, tile, f, values, g);
        } else {
          evaluate_as<true, false>(kind, tile, f, values, g);
        }
      });
    }
  }

  // ---- group losses --------------------------------------------------------------------------

  // Sums with the maxima at 0; only a tile that overflows pays for its maxima.
  WideStatistics statistics(const Tile<T>& tile) const {
    StatisticsOf<Loss, T> stats{};
    with_kind(tile, [&](auto kind) {
      stats.sums = sums(kind, tile, stats.maxima);
      if (Loss(parameters_).unsafe(stats.sums)) {
        stats.maxima = identity<Loss, T>().maxima;
        maxima(kind, tile, stats.maxima);
        stats.sums = sums(kind, tile, stats.maxima);
      }
    });
    WideStatistics wide;
    for (int k = 0; k < Loss::kMaxima; ++k) wide.maxima[k] = static_cast<double>(stats.maxima[k]);
    for (int k = 0; k < Loss::kSums; ++k) wide.sums[k] = static_cast<double>(stats.sums[k]);
    return wide;
  }

  // Late sums, from the statistics of the tile's row. Tiles without positives have none.
  void add_late(const Tile<T>& tile, const WideStatistics& stats, LateSums<Wide, double>& into) const {
    if (tile.targets == Targets::kNegative) return;
    const auto wide = Wide::settle(stats);
    decltype(Loss::settle(StatisticsOf<Loss, T>{})) settled;
    for (size_t k = 0; k < sizeof(wide) / sizeof(double); ++k) settled.v[k] = static_cast<T>(wide.v[k]);
    with_kind(tile, [&](auto kind) { add_late_of(kind, tile, settled, into); });
  }

  // Each element's sums, to those of its column.
  void add_columns(const Tile<T>& tile, double (*sums)[kTile]) const {
    with_kind(tile, [&](auto kind) { add_columns_of(kind, tile, sums); });
  }

  // From coefficients that are scaled.
  void gradient(const Tile<T>& tile, Coefficients c, T* g) const {
    with_kind(tile, [&](auto kind) { gradient_of(kind, tile, c, g); });
  }

  // Times f, from coefficients of each column, `stride` apart.
  void column_gradient(const Tile<T>& tile, const T* coefficients, int64_t stride, T f, T* g) const {
    with_kind(tile, [&](auto kind) { column_gradient_of(kind, tile, coefficients, stride, f, g); });
  }

 private:
  const double* const parameters_;

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  void evaluate_as(TileKind<kTargets, kWeighted>, const Tile<T>& tile, T f, T* values, T* g) const {
    const Loss loss(parameters_);
    const T *s = tile.s, *y = tile.y, *w = tile.w, *parameters = tile.parameters;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      evaluate_one<kValues, kGradient, kTargets, kWeighted>(loss, s, y, w, parameters, j, f, values, g);
    }
  }

  template <Targets kTargets, bool kWeighted, class M>
  auto sums(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M maxima) const {
    static_assert(Loss::kSums <= 4, "a reduction variable for each sum");
    const Loss loss(parameters_);
    const T *s = tile.s, *y = tile.y, *w = tile.w;
    Array<T, Loss::kSums> total{};
    for (int begin = 0; begin < tile.size; begin += kRun) {
      const int end = begin + kRun < tile.size ? begin + kRun : tile.size;
      T a = T(0), b = T(0), c = T(0), d = T(0);
#pragma omp simd reduction(+ : a, b, c, d)
      for (int j = begin; j < end; ++j) add_one<kTargets, kWeighted>(loss, maxima, s, y, w, j, a, b, c, d);
      const T run[4] = {a, b, c, d};
      for (int k = 0; k < Loss::kSums; ++k) total[k] += run[k];
    }
    return total;
  }

  template <Targets kTargets, bool kWeighted, class S>
  void add_late_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, S settled, LateSums<Wide, double>& into) const {
    static_assert(Loss::kLateSums <= 2, "a reduction variable for each sum");
    const Loss loss(parameters_);
    const T *s = tile.s, *y = tile.y, *w = tile.w;
    for (int begin = 0; begin < tile.size; begin += kRun) {
      const int end = begin + kRun < tile.size ? begin + kRun : tile.size;
      T a = T(0), b = T(0);
#pragma omp simd reduction(+ : a, b)
      for (int j = begin; j < end; ++j) add_late_one<kTargets, kWeighted>(loss, settled, s, y, w, j, a, b);
      const T run[2] = {a, b};
      for (int k = 0; k < Loss::kLateSums; ++k) into[k] += static_cast<double>(run[k]);
    }
  }

  template <Targets kTargets, bool kWeighted, class M>
  void maxima(TileKind<kTargets, kWeighted>, const Tile<T>& tile, M& top) const {
    const Loss loss(parameters_);
    for (int j = 0; j < tile.size; ++j) {
      loss.maxima(element<kTargets, kWeighted>(tile.s, tile.y, tile.w, j), top);
    }
  }

  template <Targets kTargets, bool kWeighted>
  void add_columns_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, double (*sums)[kTile]) const {
    const Loss loss(parameters_);
    const auto none = identity<Loss, T>().maxima;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      add_column<kTargets, kWeighted>(loss, none, tile.s, tile.y, tile.w, j, sums);
    }
  }

  template <Targets kTargets, bool kWeighted>
  void gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, Coefficients c, T* g) const {
    const Loss loss(parameters_);
    const T *s = tile.s, *y = tile.y, *w = tile.w;
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) g[j] = gradient_one<kTargets, kWeighted>(loss, s, y, w, j, c);
  }

  template <Targets kTargets, bool kWeighted>
  void column_gradient_of(TileKind<kTargets, kWeighted>, const Tile<T>& tile, const T* coefficients, int64_t stride,
                          T f, T* g) const {
    const Loss loss(parameters_);
#pragma omp simd
    for (int j = 0; j < tile.size; ++j) {
      g[j] = f * column_one<kTargets, kWeighted>(loss, tile.s, tile.y, tile.w, j, coefficients + j, stride);
    }
  }

  // ---- one element -----------------------------------------------------------------------------
  // The bodies of the loops above. They are functions because GCC keeps a struct that is declared in
  // the body of an `omp simd` loop in memory, and then does not vectorise.

  template <bool kValues, bool kGradient, Targets kTargets, bool kWeighted>
  static MLLOSS_HD void evaluate_one(const Loss& loss, const T* s, const T* y, const T* w, const T* parameters, int j,
                                     T f, T* values, T* g) {
    auto e = element<kTargets, kWeighted>(s, y, w, j);
    if constexpr (Loss::kLabelParameter) e.parameter = parameters[j];
    const ValueAndGradient<T> r = loss.evaluate(e);
    if (kValues) values[j] = r.value * e.w;
    if (kGradient) g[j] = r.gradient * (e.w * f);
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_one(const Loss& loss, const M& maxima, const T* s, const T* y, const T* w, int j, T& a,
                                T& b, T& c, T& d) {
    const auto v = loss.sums(element<kTargets, kWeighted>(s, y, w, j), maxima);
    a += v[0];
    if constexpr (Loss::kSums > 1) b += v[1];
    if constexpr (Loss::kSums > 2) c += v[2];
    if constexpr (Loss::kSums > 3) d += v[3];
  }

  template <Targets kTargets, bool kWeighted, class S>
  static MLLOSS_HD void add_late_one(const Loss& loss, const S& settled, const T* s, const T* y, const T* w, int j,
                                     T& a, T& b) {
    const auto v = loss.late(element<kTargets, kWeighted>(s, y, w, j), settled);
    a += v[0];
    if constexpr (Loss::kLateSums > 1) b += v[1];
  }

  template <Targets kTargets, bool kWeighted, class M>
  static MLLOSS_HD void add_column(const Loss& loss, const M& maxima, const T* s, const T* y, const T* w, int j,
                                   double (*sums)[kTile]) {
    const auto v = loss.sums(element<kTargets, kWeighted>(s, y, w, j), maxima);
    for (int k = 0; k < Loss::kSums; ++k) sums[k][j] += static_cast<double>(v[k]);
  }

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T column_one(const Loss& loss, const T* s, const T* y, const T* w, int j, const T* coefficients,
                                int64_t stride) {
    Array<T, Loss::kCoefficients> c;
    for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = coefficients[k * stride];
    return loss.gradient(element<kTargets, kWeighted>(s, y, w, j), c);
  }

  template <Targets kTargets, bool kWeighted>
  static MLLOSS_HD T gradient_one(const Loss& loss, const T* s, const T* y, const T* w, int j, const Coefficients& c) {
    return loss.gradient(element<kTargets, kWeighted>(s, y, w, j), c);
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
