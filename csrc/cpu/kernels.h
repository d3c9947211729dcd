// The table of CPU kernels, which is compiled once for each instruction set and called by passes.h and label_parts.h.
#pragma once

#include "../core/params.h"

namespace mlloss {
namespace cpu {

// A unit is one tile of one row. Units are numbered row by row.
constexpr int64_t kLabelsPerUnit = 1024;

struct Work {
  const Call* call;
  const ForwardOutputs* forward;  // one of forward and backward is set
  const BackwardOutputs* backward;
  double* unit_values;           // forward: [units] (element-wise) or [groups]; the total is their sum
  double* unit_statistics;       // [units, statistics], second-pass sums included
  double* unit_row_gradients;    // [units] or null
  double* unit_scale_gradients;  // [units] or null
  // [statistics, groups] without second-pass sums. If null, second_pass merges the statistics of units.
  double* group_statistics = nullptr;
  const int* terms = nullptr;  // a sum of losses: the places of its terms in the registry
  int term_count = 0;
};

using Kernel = void (*)(const Work&, int64_t begin, int64_t end);

struct LossKernels {
  bool element_wise;
  int statistics, coefficients, second_pass_sums;  // statistics include second_pass_sums
  Kernel elements;                                 // over units: value and gradient
  Kernel pairs;                                    // over units: value and the gradients of both logits
  Kernel rows;           // over rows: statistics, coefficients, value and gradient while a row is in cache
  Kernel statistics_of;  // over units
  Kernel second_pass;    // over units of rows with complete statistics; null without second-pass sums
  Kernel merge;          // over groups: merges the units' statistics, without second-pass sums
  Kernel finalize;       // over groups: merges the units' statistics, and stores coefficients and value
  Kernel gradient;       // over units
  // Over units, after finalize: the values of a sum's element-wise terms, for a call without gradient. If not null,
  // finalize runs once more after it or after gradient.
  Kernel element_values;
  Kernel macro;           // over tiles of labels, with all rows: from statistics to gradient
  Kernel label_gradient;  // over tiles of labels, with all rows
};

// The kernels of each loss, in the order of the registry.
struct Table {
  const LossKernels* float32;
  const LossKernels* float64;
  int losses;
  // The kernels of sums of losses; their counts are added up over the terms.
  LossKernels compound32, compound64;
  // memory[begin:end] *= factor, for a gradient of that dtype.
  void (*scale)(DType dtype, void* memory, double factor, int64_t begin, int64_t end);
};

// One table for each instruction set that the target processor has.
Table table_baseline();
Table table_x86_64_v3();
Table table_x86_64_v4();

}  // namespace cpu
}  // namespace mlloss
