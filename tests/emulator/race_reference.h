// One loss, one element after the other in double: what the race driver's results are checked against.
// The functors are the kernels' own; that they are right is for the Python tests to say.
#pragma once

#include <vector>

#include "core/params.h"
#include "losses/compound.h"
#include "losses/registry.h"

namespace mlloss {
namespace reference {

// Inputs as numbers; every kernel argument is made of these, in whatever dtype and layout.
struct Inputs {
  int64_t rows, labels;
  Grouping grouping;
  std::vector<double> logits;  // [rows, labels]
  std::vector<bool> targets;   // [rows, labels]
  std::vector<double> weight, label_offset, label_parameter;
  std::vector<double> sample_weight, row_offset;
  std::vector<double> grad_output;  // of each group, of an element-wise loss for each row; as many as any needs
  double scale, factor, normalizer;
  Parameters parameters;

  bool crosses_rows() const { return grouping == Grouping::kMacro || grouping == Grouping::kMicro; }
  size_t group_of(int64_t row, int64_t label) const {
    return static_cast<size_t>(grouping == Grouping::kMicro ? 0 : grouping == Grouping::kMacro ? label : row);
  }
  size_t groups() const { return group_of(rows - 1, labels - 1) + 1; }
};

// Sums, and how large what went into them was: terms that cancel leave their rounding errors.
struct Sums {
  std::vector<double> values, magnitudes;

  void resize(int64_t count) {
    values.resize(static_cast<size_t>(count));
    magnitudes.resize(static_cast<size_t>(count));
  }
  void add(int64_t i, double x) {
    values[static_cast<size_t>(i)] += x;
    magnitudes[static_cast<size_t>(i)] += x < 0 ? -x : x;
  }
};

struct Results {
  std::vector<double> values;  // [groups], or [rows, labels] for an element-wise loss
  double total = 0;
  std::vector<double> gradient, backward_gradient;    // in x: of the total, and times grad_output
  Sums row_gradient, scale_gradient, label_gradient;  // of the latter
};

using Soft = Element<double, Targets::kSoft>;

template <class Loss>
Soft element(const Inputs& in, int64_t row, int64_t label) {
  const size_t i = static_cast<size_t>(row * in.labels + label);
  const double s = in.scale * in.logits[i] + in.label_offset[label] + in.row_offset[row];
  const double w = in.weight[label] * (in.crosses_rows() ? in.sample_weight[row] : 1.0);
  if (w == 0 && !Loss::kCompeting) return {0, 0, 0};
  const double one = Loss::kRawTargets ? in.scale : 1.0;  // a logit as any other
  return {s, in.targets[i] ? one : 0.0, w, in.label_parameter[label]};
}

// Adds d total / d s = g to everything that is made of it.
inline void add_gradient(const Inputs& in, int64_t row, int64_t label, double g, Results& out) {
  const double x = in.logits[static_cast<size_t>(row * in.labels + label)];
  const double after = g * in.grad_output[in.group_of(row, label)];
  out.gradient.push_back(g * in.scale);
  out.backward_gradient.push_back(after * in.scale);
  out.row_gradient.add(row, after);
  out.scale_gradient.add(row, x * after);
  out.label_gradient.add(label, after);
}

template <class F>
void for_elements(const Inputs& in, F f) {
  for (int64_t row = 0; row < in.rows; ++row) {
    for (int64_t label = 0; label < in.labels; ++label) f(row, label);
  }
}

template <class Loss>
void element_wise(const Loss& loss, const Inputs& in, double factor, Results& out) {
  for_elements(in, [&](int64_t row, int64_t label) {
    const Soft e = element<Loss>(in, row, label);
    const auto r = loss.evaluate(e);
    const double weight = e.w * in.sample_weight[row];
    out.values.push_back(weight == 0 ? 0 : r.value * weight);
    out.total += out.values.back() * factor;
    add_gradient(in, row, label, weight == 0 ? 0 : r.gradient * weight * factor, out);
  });
}

template <class Loss>
void group(const Loss& loss, const Inputs& in, double factor, Results& out) {
  std::vector<StatisticsOf<Loss, double>> stats(in.groups(), identity<Loss, double>());
  for_elements(in, [&](int64_t row, int64_t label) {
    loss.maxima(element<Loss>(in, row, label), stats[in.group_of(row, label)].maxima);
  });
  for_elements(in, [&](int64_t row, int64_t label) {
    auto& of_group = stats[in.group_of(row, label)];
    const auto sums = loss.sums(element<Loss>(in, row, label), of_group.maxima);
    for (int k = 0; k < Loss::kSums; ++k) of_group.sums[k] += sums[k];
  });
  std::vector<LateSums<Loss, double>> late(in.groups());
  if constexpr (Loss::kLateSums > 0) {
    for_elements(in, [&](int64_t row, int64_t label) {
      const size_t g = in.group_of(row, label);
      const auto sums = loss.late(element<Loss>(in, row, label), Loss::settle(stats[g]));
      for (int k = 0; k < Loss::kLateSums; ++k) late[g][k] += sums[k];
    });
  }
  std::vector<Array<double, Loss::kCoefficients>> coefficients;
  for (size_t g = 0; g < in.groups(); ++g) {
    double value;
    coefficients.push_back(Loss::scaled(finish<Loss, double>(loss, stats[g], late[g], value), 1.0));
    out.values.push_back(in.crosses_rows() ? value : value * in.sample_weight[g]);
    out.total += out.values.back() * factor;
  }
  for_elements(in, [&](int64_t row, int64_t label) {
    const Soft e = element<Loss>(in, row, label);
    const double weight = in.crosses_rows() ? 1.0 : in.sample_weight[row];
    const double g = e.w == 0 && !Loss::kCompeting ? 0 : loss.gradient(e, coefficients[in.group_of(row, label)]);
    add_gradient(in, row, label, g * weight * factor, out);
  });
}

template <class Loss>
Results results(const Inputs& in) {
  Results out;
  out.row_gradient.resize(in.rows);
  out.scale_gradient.resize(in.rows);
  out.label_gradient.resize(in.labels);
  const Loss loss(in.parameters.values);
  const double factor = in.factor / in.normalizer;
  if constexpr (Loss::kScope == Scope::kElement) {
    element_wise(loss, in, factor, out);
  } else {
    group(loss, in, factor, out);
  }
  return out;
}

struct Named {
  const char* name;
  bool raw_targets;
  Results (*results)(const Inputs&);
};

#define MLLOSS_REFERENCE(name, Functor) {#name, Functor<double>::kRawTargets, results<Functor<double>>},
#define MLLOSS_COMPOUND(names, Functor) {names, false, results<Functor<double>>},
inline const Named kLosses[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_REFERENCE) MLLOSS_FOR_EACH_COMPOUND(MLLOSS_COMPOUND)};
#undef MLLOSS_COMPOUND
#undef MLLOSS_REFERENCE

}  // namespace reference
}  // namespace mlloss
