// The plain structs that the ops pass to the kernels.
//
// `T` below is the compute type: double for float64 logits, else float. Sizes are in elements.
#pragma once

#include <cstdint>

#include "macros.h"

namespace mlloss {

enum class DType : int8_t { kBool, kUInt8, kInt8, kInt16, kInt32, kInt64, kHalf, kBFloat16, kFloat, kDouble };

MLLOSS_HD bool is_float(DType dtype) { return dtype >= DType::kHalf; }

MLLOSS_HD int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::kDouble:
    case DType::kInt64:
      return 8;
    case DType::kFloat:
    case DType::kInt32:
      return 4;
    case DType::kHalf:
    case DType::kBFloat16:
    case DType::kInt16:
      return 2;
    default:
      return 1;
  }
}

// The elements that share the statistics of a group loss. Element-wise losses have no statistics.
enum class Grouping : int8_t { kElement, kSamples, kMacro, kMicro };

enum class Reduction : int8_t { kNone, kSum, kMean, kBatchMean };

// The parameters of a sum of losses are one block for each term: its coefficient, the functor's own parameters, then
// zeros. _ops.py has the same numbers.
constexpr int kTermParameters = 8;
constexpr int kMostTerms = 8;
constexpr char kCompound = '+';  // separates the names of the terms
constexpr int kMaxParameters = kMostTerms * kTermParameters;

// The ignore_index of floating targets whose unknown labels are NaN. No floating number equals it. _ops.py has the same
// number.
constexpr int64_t kIgnoreNan = INT64_MAX;

struct Parameters {
  double values[kMaxParameters];
};

// The numbers among the ops' arguments that Call has under the same names, in the same order: X(type, name).
//
// s = scale * x + label_offset[label] + row_offset[row] + offset; the tensor logit_scale, if any, replaces `scale`.
// y -> (1 - label_smoothing) y + label_smoothing / all_labels.
#define MLLOSS_NUMBERS(X) X(double, scale) X(double, offset) X(double, label_smoothing)

// The same for tensors, which may be null. weight, label_offset and label_parameter (for functors with kLabelParameter)
// have an entry for each label; sample_weight has one for each row, and row_offset too, or one for all rows with a
// stride of 0; logit_scale has one entry, and so has normalizer, which divides `factor`.
#define MLLOSS_TENSORS(X, type) \
  X(type, weight)               \
  X(type, sample_weight)        \
  X(type, logit_scale)          \
  X(type, label_offset)         \
  X(type, row_offset)           \
  X(type, normalizer)           \
  X(type, label_parameter)

#define MLLOSS_FIELD(type, name) type name;

struct Call {
  int64_t rows;    // B
  int64_t labels;  // L
  // The logits' columns are the labels from first_label on, out of all_labels: a part of the labels or all of them.
  // Sparse columns count from label 0; all other arrays over labels cover the part only.
  int64_t first_label, all_labels;
  const void* logits;  // [rows, labels]
  int64_t logits_row_stride, logits_label_stride;
  int64_t gradient_row_stride;  // labels, or the stride of the logits if the gradient replaces them
  DType logits_dtype;

  // Dense targets [rows, labels], or null.
  DType targets_dtype;
  const void* targets;
  int64_t targets_row_stride, targets_label_stride;
  // Sparse targets, or null: [rows + 1], [nnz], and [nnz] or null if all values are 1.
  const void* crow_indices;
  const void* col_indices;
  const void* values;  // T; a negative value excludes its label
  int64_t nnz;         // the number of columns that may be read, even if crow_indices has larger numbers
  bool wide_indices;   // int64 if true, else int32

  bool has_ignore_index;
  Grouping grouping;
  int64_t ignore_index;

  MLLOSS_NUMBERS(MLLOSS_FIELD)
  MLLOSS_TENSORS(MLLOSS_FIELD, const void*)  // of T
  int64_t row_offset_stride;

  double factor;  // The reduction multiplies every value and gradient by it.

  Parameters parameters;
};

MLLOSS_HD int64_t group_count(Grouping grouping, int64_t rows, int64_t labels) {
  switch (grouping) {
    case Grouping::kElement:
      return rows * labels;
    case Grouping::kSamples:
      return rows;
    case Grouping::kMacro:
      return labels;
    default:
      return 1;
  }
}

MLLOSS_HD int64_t group_count(const Call& call) { return group_count(call.grouping, call.rows, call.labels); }

// The results of a forward pass. A null pointer means that the result is not needed.
struct ForwardOutputs {
  void* values;        // T: [rows, labels] for element-wise losses, else [groups]; with reduction "none"
  void* total;         // T []: the reduced loss
  void* coefficients;  // T [kCoefficients, groups], for the gradient before factor and sample_weight are applied
  void* gradient;      // the logits' dtype, [rows, labels] with adjacent labels; may be the logits' own memory
  // The gradient of second logits, like `gradient`. If not null, gradients of both logits and the total are needed.
  void* other_gradient;
};

// The results of a pass over the logits with known coefficients.
struct BackwardOutputs {
  const void* coefficients;                                  // T [kCoefficients, groups]; null for element-wise losses
  const void* grad_output;                                   // T; null stands for 1
  int64_t grad_output_row_stride, grad_output_label_stride;  // 0 and 0 for a scalar
  void* gradient;                                            // as above, or null
  void* row_gradient;                                        // T [rows] or null: sum over labels of d loss / d s
  void* scale_gradient;                                      // T [rows] or null: sum over labels of x * d loss / d s
  void* label_gradient;                                      // T [labels] or null: sum over rows of d loss / d s
  void* other_gradient;  // as above, or null; if not null, the gradients of both logits are needed, and no sums
};

// The statistics of several parts of each group, [parts, statistics, groups], and their second-pass sums, [parts,
// second-pass sums, groups].
template <class T>
struct GroupParts {
  int64_t parts, groups;
  const T* statistics;
  const double* second_pass_sums;  // null if there are none, or not yet
};
using LabelParts = GroupParts<double>;  // a part of the labels each

// True if groups cross rows. A row's weight then applies to its elements, else to its loss.
MLLOSS_HD bool crosses_rows(const Call& call) {
  return call.grouping == Grouping::kMacro || call.grouping == Grouping::kMicro;
}

}  // namespace mlloss
