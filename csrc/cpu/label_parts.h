// The steps of a forward pass over a part of the labels, and over the statistics of all parts.
#pragma once

#include "passes.h"

namespace mlloss {
namespace cpu {

inline void run_statistics(const Program& program, const Call& call, double* out) {
  const int64_t units = call.rows * tiles_of(call.labels);
  std::vector<double> statistics(static_cast<size_t>(units * program.kernels.statistics));
  Work work{&call, nullptr, nullptr, nullptr, statistics.data(), nullptr, nullptr, out};
  program.name_terms(work);
  parallel(program.kernels.statistics_of, work, units, std::min(call.labels, kLabelsPerUnit));
  program.kernels.merge(work, 0, group_count(call));
}

// Takes second-pass sums of a part, from the merged statistics of all parts.
inline void run_second_pass(const Program& program, const Call& call, const double* known, double* out) {
  const int count = program.kernels.second_pass_sums, all = program.kernels.statistics;
  const int64_t tiles = tiles_of(call.labels), units = call.rows * tiles;
  std::vector<double> sums(static_cast<size_t>(units * all));
  Work work{&call, nullptr, nullptr, nullptr, sums.data(), nullptr, nullptr, const_cast<double*>(known)};
  if (program.kernels.second_pass)
    parallel(program.kernels.second_pass, work, units, std::min(call.labels, kLabelsPerUnit));
  for (int64_t row = 0; row < call.rows; ++row) {
    for (int k = 0; k < count; ++k) {
      double sum = 0.0;
      for (int64_t unit = row * tiles; unit < (row + 1) * tiles; ++unit) {
        sum += sums[static_cast<size_t>(unit * all + all - count + k)];
      }
      out[k * call.rows + row] = sum;
    }
  }
}

// Passes parts to the kernels as units: a group is a row with one tile for each part.
class PartsAsUnits {
 public:
  PartsAsUnits(const Program& program, const Call& call, const LabelParts& parts)
      : call_(call), statistics_(static_cast<size_t>(parts.groups * parts.parts * program.kernels.statistics)) {
    call_.rows = parts.groups;
    call_.grouping = Grouping::kSamples;
    call_.labels = parts.parts * kLabelsPerUnit;
    const int second = program.kernels.second_pass_sums;
    place(parts, parts.statistics, 0, program.kernels.statistics - second, program.kernels.statistics);
    if (parts.second_pass_sums)
      place(parts, parts.second_pass_sums, program.kernels.statistics - second, second, program.kernels.statistics);
  }

  Work work(const ForwardOutputs* out, double* values, double* merged) {
    return {&call_, out, nullptr, values, statistics_.data(), nullptr, nullptr, merged};
  }

 private:
  Call call_;
  std::vector<double> statistics_;

  void place(const LabelParts& parts, const double* from, int begin, int count, int stride) {
    for (int64_t part = 0; part < parts.parts; ++part) {
      for (int k = 0; k < count; ++k) {
        for (int64_t group = 0; group < parts.groups; ++group) {
          statistics_[static_cast<size_t>((group * parts.parts + part) * stride + begin + k)] = *from++;
        }
      }
    }
  }
};

inline void run_merge(const Program& program, const LabelParts& parts, double* out) {
  PartsAsUnits units(program, Call{}, parts);
  Work work = units.work(nullptr, nullptr, out);
  program.name_terms(work);
  program.kernels.merge(work, 0, parts.groups);
}

inline void run_finalize(const Program& program, Call call, const LabelParts& parts, const ForwardOutputs& out) {
  if (crosses_rows(call)) call.sample_weight = nullptr;  // already in the statistics
  PartsAsUnits units(program, call, parts);
  std::vector<double> values(static_cast<size_t>(parts.groups));
  Work work = units.work(&out, values.data(), nullptr);
  program.name_terms(work);
  program.kernels.finalize(work, 0, parts.groups);
  if (out.total) store_total(call, values, out.total);
}

}  // namespace cpu
}  // namespace mlloss
