// The CPU engine, which passes tiles of rows to any functor. No code here depends on the loss.
#pragma once

#include "engine_base.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

template <template <class> class LossTemplate, class T>
class Engine : EngineBase<T> {
  using Math = TileMath<LossTemplate, T>;
  using Loss = typename Math::Loss;
  using Wide = typename Math::Wide;
  using SecondSums = SecondPassSums<Wide, double>;
  using Work = cpu::Work;

 public:
  static void elements(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    alignas(64) T buffer[kTile];
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      T* g = engine.wants_gradient() ? engine.gradient_target(row, label, buffer) : nullptr;
      engine.evaluate(unit, row, label, tile, g);
      if (g) engine.write_gradient(tile, unit, row, label, g);
    });
  }

  // The gradients of both logits, and in a forward pass the sum of the values.
  static void pairs(const Work& work, int64_t begin, int64_t end) {
    if constexpr (Loss::kSecondLogits) {
      const Engine engine(work);
      Tile<T> tile;
      alignas(64) T values[kTile], buffer[kTile], other_buffer[kTile];
      engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
        engine.reader_.read(row, label, size, tile);
        T* g = engine.gradient_target(row, label, buffer);
        T* other = engine.target_in(engine.other_gradient_memory(), row, label, other_buffer);
        engine.math_.evaluate_both(tile, engine.folded_factor(row, label), work.forward ? values : nullptr, g, other);
        if (work.forward) work.unit_values[unit] = engine.weighted(row, sum_of(values, size));
        engine.write_gradient(tile, unit, row, label, g);
        engine.write_other_gradient(tile, row, label, other);
      });
    }
  }

  static void rows(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    ZeroTiles zeros;
    for (int64_t row = begin; row < end; ++row) {
      auto stats = identity<Wide, double>();
      SecondSums second_sums{};
      const int64_t first = row * engine.tiles_, last = first + engine.tiles_;
      T* const kept = Loss::kKeeps ? engine.kept_of_row(row) : nullptr;
      engine.for_units(first, last, [&](int64_t, int64_t, int64_t label, int size) {
        engine.reader_.read(row, label, size, tile);
        zeros.set(label, tile.zeros);
        mlloss::merge<Wide, double>(stats, engine.math_.statistics(tile, kept ? kept + label : nullptr));
      });
      if constexpr (Loss::kSecondPassSums > 0) {
        engine.for_units(first, last, [&](int64_t, int64_t, int64_t label, int size) {
          if (zeros.at(label)) return;
          engine.reader_.read(row, label, size, tile);
          engine.math_.add_second_pass(tile, stats, second_sums);
        });
      }
      engine.finalize_group(row, stats, second_sums);
      if (!engine.wants_gradient()) continue;
      engine.for_units(first, last, [&](int64_t unit, int64_t, int64_t label, int size) {
        engine.reader_.read(row, label, size, tile, zeros.at(label));
        engine.gradient_of_unit(unit, row, label, kept ? kept + label : nullptr, tile);
      });
    }
  }

  static void statistics(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      const auto stats = engine.math_.statistics(tile, Loss::kKeeps ? engine.kept_in_gradient(row, label) : nullptr);
      double* out = work.unit_statistics + unit * kStatistics;
      for (int k = 0; k < Loss::kMaxima; ++k) out[k] = stats.maxima[k];
      for (int k = 0; k < Loss::kSums; ++k) out[Loss::kMaxima + k] = stats.sums[k];
    });
  }

  static void merge(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    const int64_t units = engine.units_of_group(), groups = group_count(*work.call);
    for (int64_t group = begin; group < end; ++group) {
      const auto stats = engine.merged_statistics(group * units, units);
      double* out = work.group_statistics + group;
      for (int k = 0; k < Loss::kMaxima; ++k) out[k * groups] = stats.maxima[k];
      for (int k = 0; k < Loss::kSums; ++k) out[(Loss::kMaxima + k) * groups] = stats.sums[k];
    }
  }

  // Second-pass sums, stored beside the statistics of the units. The statistics of a row are in group_statistics, or
  // are merged from its units if that is null.
  static void second_pass(const Work& work, int64_t begin, int64_t end) {
    if constexpr (Loss::kSecondPassSums > 0) {
      const Engine engine(work);
      Tile<T> tile;
      auto stats = identity<Wide, double>();
      int64_t merged = -1;
      engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
        if (row != merged) {
          stats = work.group_statistics ? loaded(work.group_statistics + row, work.call->rows)
                                        : engine.merged_statistics(row * engine.tiles_, engine.tiles_);
        }
        merged = row;
        engine.reader_.read(row, label, size, tile);
        SecondSums sums{};
        engine.math_.add_second_pass(tile, stats, sums);
        double* out = work.unit_statistics + unit * kStatistics + Loss::kMaxima + Loss::kSums;
        for (int k = 0; k < Loss::kSecondPassSums; ++k) out[k] = sums[k];
      });
    }
  }

  static void finalize(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    const int64_t units = engine.units_of_group();
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * units;
      SecondSums second_sums{};
      for (int64_t unit = first; unit < first + units; ++unit) {
        const double* in = work.unit_statistics + unit * kStatistics + Loss::kMaxima + Loss::kSums;
        for (int k = 0; k < Loss::kSecondPassSums; ++k) second_sums[k] += in[k];
      }
      engine.finalize_group(group, engine.merged_statistics(first, units), second_sums);
    }
  }

  // Runs alone, or after `statistics` of the same call, which then has stored the kept number of each element.
  static void gradient(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    engine.for_units(begin, end, [&](int64_t unit, int64_t row, int64_t label, int size) {
      engine.reader_.read(row, label, size, tile);
      engine.gradient_of_unit(unit, row, label, Loss::kKeeps ? engine.kept_in_gradient(row, label) : nullptr, tile);
    });
  }

  // A group that is a label crosses all rows, so each tile of labels is processed down the whole batch.
  static void macro(const Work& work, int64_t begin, int64_t end) {
    if constexpr (Loss::kMaxima == 0) {
      const Engine engine(work);
      Tile<T> tile;
      alignas(64) double sums[Loss::kSums][kTile];
      for (int64_t t = begin; t < end; ++t) {
        const int64_t label = t * kTile;
        const int size = engine.tile_size(t);
        memset(sums, 0, sizeof(sums));
        for (int64_t row = 0; row < work.call->rows; ++row) {
          engine.reader_.read(row, label, size, tile);
          engine.math_.add_columns(tile, sums);
        }
        for (int j = 0; j < size; ++j) {
          StatisticsOf<Wide, double> stats;
          for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] = sums[k][j];
          engine.finalize_group(label + j, stats, {});
        }
        if (!engine.wants_gradient()) continue;
        for (int64_t row = 0; row < work.call->rows; ++row) {
          engine.reader_.read(row, label, size, tile);
          engine.gradient_of_unit(row * engine.tiles_ + t, row, label, nullptr, tile);
        }
      }
    }
  }

  static void label_gradient(const Work& work, int64_t begin, int64_t end) {
    const Engine engine(work);
    Tile<T> tile;
    alignas(64) T g[kTile];
    alignas(64) double sum[kTile];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t label = t * kTile;
      const int size = engine.tile_size(t);
      memset(sum, 0, sizeof(sum));
      for (int64_t row = 0; row < work.call->rows; ++row) {
        engine.reader_.read(row, label, size, tile);
        const T f = engine.factor_at(row, label);
        engine.math_.evaluate(tile, f, nullptr, g);
        engine.group_gradient(tile, row, label, f, nullptr, g);
        engine.finish_gradient(tile, row, label, g);
        for (int j = 0; j < size; ++j) sum[j] += static_cast<double>(g[j]);
      }
      T* out = static_cast<T*>(work.backward->label_gradient) + label;
      for (int j = 0; j < size; ++j) out[j] = static_cast<T>(sum[j]);
    }
  }

  static constexpr int kStatistics = Loss::kMaxima + Loss::kSums + Loss::kSecondPassSums;

 private:
  using EngineBase<T>::call_;
  using EngineBase<T>::work_;

  const Math math_;

  explicit Engine(const Work& work)
      : EngineBase<T>(work, Loss::kSoftmaxOverLabels, Loss::kSecondLogits), math_(work.call->parameters.values) {}

  void evaluate(int64_t unit, int64_t row, int64_t label, const Tile<T>& tile, T* g) const {
    const T f = this->folded_factor(row, label);
    if (!work_.forward) {
      math_.evaluate(tile, f, nullptr, g);
    } else if (!work_.forward->values) {
      work_.unit_values[unit] = this->weighted(row, math_.sum_values(tile, f, g));
    } else {
      alignas(64) T values[kTile];
      math_.evaluate(tile, f, values, g);
      const T weight = this->sample_weight(row);
      T* out = static_cast<T*>(work_.forward->values) + row * call_.labels + label;
      for (int j = 0; j < tile.size; ++j) out[j] = weight == T(0) ? T(0) : values[j] * weight;
    }
  }

  static StatisticsOf<Wide, double> loaded(const double* in, int64_t stride) {
    StatisticsOf<Wide, double> stats;
    for (int k = 0; k < Loss::kMaxima; ++k) stats.maxima[k] = in[k * stride];
    for (int k = 0; k < Loss::kSums; ++k) stats.sums[k] = in[(Loss::kMaxima + k) * stride];
    return stats;
  }

  StatisticsOf<Wide, double> merged_statistics(int64_t first, int64_t units) const {
    auto stats = identity<Wide, double>();
    for (int64_t unit = first; unit < first + units; ++unit) {
      mlloss::merge<Wide, double>(stats, loaded(work_.unit_statistics + unit * kStatistics, 1));
    }
    return stats;
  }

  // Stores a group's coefficients, [kCoefficients, groups], and its value.
  template <class S>
  void finalize_group(int64_t group, const S& stats, const SecondSums& second_sums) const {
    double value;
    const Wide wide(call_.parameters.values);
    const auto c = mlloss::finalize<Wide, double>(wide, stats, second_sums, value);
    T* out = static_cast<T*>(work_.forward->coefficients);
    for (int k = 0; k < Loss::kCoefficients; ++k) out[k * group_count(call_) + group] = static_cast<T>(c[k]);
    if (call_.grouping == Grouping::kSamples) value = this->weighted(group, value);
    work_.unit_values[group] = value;
    if (work_.forward->values) static_cast<T*>(work_.forward->values)[group] = static_cast<T>(value);
  }

  void gradient_of_unit(int64_t unit, int64_t row, int64_t label, const T* kept, const Tile<T>& tile) const {
    alignas(64) T buffer[kTile];
    T* g = this->gradient_target(row, label, buffer);
    group_gradient(tile, row, label, this->folded_factor(row, label), kept, g);
    this->write_gradient(tile, unit, row, label, g);
  }

  void group_gradient(const Tile<T>& tile, int64_t row, int64_t label, T f, const T* kept, T* g) const {
    if constexpr (Loss::kScope == Scope::kGroup) {
      if (call_.grouping == Grouping::kMacro) {
        math_.column_gradient(tile, this->coefficients() + label, call_.labels, f, g);
        return;
      }
      const int64_t group = call_.grouping == Grouping::kSamples ? row : 0;
      typename Math::Coefficients c;
      for (int k = 0; k < Loss::kCoefficients; ++k) c[k] = this->coefficients()[k * group_count(call_) + group];
      math_.gradient(tile, Loss::scaled(c, f), kept, g);
    }
  }
};

}  // namespace MLLOSS_ISA
}  // namespace mlloss
