// The table of CPU kernels: what register.cpp calls, once compiled for each instruction set.
#pragma once

#include "../core/params.h"

namespace mlloss {
namespace cpu {

// A unit is one tile of one row; units are numbered row by row.
constexpr int64_t kLabelsPerUnit = 1024;

struct Work {
  const Call* call;
  const ForwardOutputs* forward;  // one of these two is set
  const BackwardOutputs* backward;
  double* unit_values;                 // forward: [units] (element-wise) or [groups]; what the total sums up
  double* unit_statistics;             // [units, statistics], late sums included
  double* unit_row_gradients;          // [units] or null
  double* unit_scale_gradients;        // [units] or null
  double* group_statistics = nullptr;  // [statistics, groups], late sums apart; `late` merges units' where it is null
  const int* terms = nullptr;          // of a compound: places in the registry
  int term_count = 0;
};

using Kernel = void (*)(const Work&, int64_t begin, int64_t end);

struct LossKernels {
  bool element_wise;
  int statistics, coefficients, second_pass_sums;  // the first with the last
  Kernel elements;                                 // units: value and gradient
  Kernel rows;            // rows: statistics, coefficients, value and gradient while the row is in cache
  Kernel statistics_of;   // units
  Kernel second_pass;     // units of rows, after all of their statistics; null: no late sums
  Kernel merge;           // groups: their units' statistics as one, late sums apart
  Kernel finalize;        // groups: the same, coefficients, value
  Kernel gradient;        // units
  Kernel macro;           // tiles of labels, every row of each: statistics to gradient
  Kernel label_gradient;  // tiles of labels, every row of each
};

// The kernels of each loss, by its place in the registry.
struct Table {
  const LossKernels* float32;
  const LossKernels* float64;
  int losses;
  // Of compounds, whose counts are the sums of their terms'.
  LossKernels compound32, compound64;
  // memory[begin:end] *= factor, for a gradient of that dtype.
  void (*scale)(DType dtype, void* memory, double factor, int64_t begin, int64_t end);
};

// One file each, where the machine the library is built for has such a set.
Table table_baseline();
Table table_x86_64_v3();
Table table_x86_64_v4();

}  // namespace cpu
}  // namespace mlloss
