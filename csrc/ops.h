// The ops of an engine, and the conversion of their arguments to the structs that kernels take. The schemas are in
// mlloss_cuda/_ops.py. Python checks the arguments before it calls an op; the checks here only guard against calls that
// Python never makes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/params.h"

namespace mlloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Bool:
      return DType::kBool;
    case ScalarType::Byte:
      return DType::kUInt8;
    case ScalarType::Char:
      return DType::kInt8;
    case ScalarType::Short:
      return DType::kInt16;
    case ScalarType::Int:
      return DType::kInt32;
    case ScalarType::Long:
      return DType::kInt64;
    case ScalarType::Half:
      return DType::kHalf;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat;
    case ScalarType::Double:
      return DType::kDouble;
    default:
      STD_TORCH_CHECK(false, "mlloss_cuda: unsupported dtype");
  }
}

inline const void* pointer(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

// The arguments that every op takes after the logits, in the order of the schemas: X(type, name). mlloss_cuda/_call.py
// has the same list, and a test compares the two. core/params.h lists those that the kernels take as they are.
#define MLLOSS_CALL(X)                    \
  X(OptionalTensor, targets)              \
  X(std::string, loss)                    \
  X(std::vector<double>, parameters)      \
  X(int64_t, grouping)                    \
  X(int64_t, reduction)                   \
  MLLOSS_NUMBERS(X)                       \
  X(std::optional<int64_t>, ignore_index) \
  X(int64_t, first_label)                 \
  X(int64_t, all_labels)                  \
  X(OptionalTensor, crow_indices)         \
  X(OptionalTensor, col_indices)          \
  X(OptionalTensor, values)               \
  MLLOSS_TENSORS(X, OptionalTensor)

struct Arguments {
  MLLOSS_CALL(MLLOSS_FIELD)
};

// A mean is over all labels even if only a part of them is here, so that the totals of the parts add up to the whole's.
inline double reduction_factor(Grouping grouping, Reduction reduction, int64_t rows, int64_t all_labels) {
  switch (reduction) {
    case Reduction::kMean:
      return 1.0 / static_cast<double>(group_count(grouping, rows, all_labels));  // empty: 0 * inf, NaN
    case Reduction::kBatchMean:
      return 1.0 / static_cast<double>(rows);
    default:
      return 1.0;
  }
}

inline void set_parameters(Call& call, const std::vector<double>& parameters) {
  for (size_t i = 0; i < parameters.size() && i < kMaxParameters; ++i) call.parameters.values[i] = parameters[i];
}

inline Call make_call(const Tensor& logits, const Arguments& a, const void* gradient = nullptr) {
  Call call{};
  call.rows = logits.size(0);
  call.labels = logits.size(1);
  call.first_label = a.first_label;
  call.all_labels = a.all_labels;
  call.logits = logits.const_data_ptr();
  call.logits_row_stride = logits.stride(0);
  call.logits_label_stride = logits.stride(1);
  call.logits_dtype = dtype_of(logits);
  call.gradient_row_stride = gradient == call.logits ? logits.stride(0) : call.labels;
  if (a.targets.has_value()) {
    call.targets = a.targets->const_data_ptr();
    call.targets_dtype = dtype_of(*a.targets);
    call.targets_row_stride = a.targets->stride(0);
    call.targets_label_stride = a.targets->stride(1);
  } else {
    call.crow_indices = pointer(a.crow_indices);
    call.col_indices = pointer(a.col_indices);
    call.values = pointer(a.values);
    call.nnz = a.col_indices->size(0);
    call.wide_indices = a.col_indices->scalar_type() == ScalarType::Long;
  }
  call.has_ignore_index = a.ignore_index.has_value();
  call.ignore_index = a.ignore_index.value_or(0);
  call.grouping = static_cast<Grouping>(a.grouping);
#define MLLOSS_COPY(type, name) call.name = a.name;
#define MLLOSS_POINT(type, name) call.name = pointer(a.name);
  MLLOSS_NUMBERS(MLLOSS_COPY)
  MLLOSS_TENSORS(MLLOSS_POINT, )
#undef MLLOSS_COPY
#undef MLLOSS_POINT
  call.row_offset_stride = a.row_offset.has_value() && a.row_offset->dim() > 0 ? 1 : 0;
  call.factor = reduction_factor(call.grouping, static_cast<Reduction>(a.reduction), call.rows, call.all_labels);
  set_parameters(call, a.parameters);
  return call;
}

// Returns uninitialised memory from torch's allocator. The call avoids the dispatcher's boxed arguments, which take
// longer than the allocation.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  int64_t strides[2] = {1, 1};
  STD_TORCH_CHECK(sizes.size() <= 2, "mlloss_cuda: results have at most two dimensions");
  if (sizes.size() == 2) strides[0] = std::max<int64_t>(1, sizes.begin()[1]);
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, code,
                                                  device, like.get_device_index(), &made));
  return Tensor(made);
}

inline ScalarType compute_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor new_gradient(const Tensor& logits, bool wanted) {
  if (!wanted) return new_tensor(logits, {0}, logits.scalar_type());
  return new_tensor(logits, {logits.size(0), logits.size(1)}, logits.scalar_type());
}

// Returns memory for the loss: [] if it is reduced, else one value per element or group.
inline Tensor new_value(const Tensor& like, const Call& call, Reduction reduction, ScalarType dtype) {
  if (reduction != Reduction::kNone || call.grouping == Grouping::kMicro) return new_tensor(like, {}, dtype);
  if (call.grouping == Grouping::kElement) return new_tensor(like, {call.rows, call.labels}, dtype);
  return new_tensor(like, {group_count(call)}, dtype);
}

inline void set_grad_output(BackwardOutputs& out, const Call& call, const Tensor& grad_output) {
  out.grad_output = grad_output.const_data_ptr();
  if (grad_output.dim() == 0) return;
  if (call.grouping == Grouping::kElement) {
    out.grad_output_row_stride = grad_output.stride(0);
    out.grad_output_label_stride = grad_output.stride(1);
  } else if (call.grouping == Grouping::kMacro) {
    out.grad_output_label_stride = grad_output.stride(0);
  } else {
    out.grad_output_row_stride = grad_output.stride(0);
  }
}

// The kind of a loss, and how many statistics, second-pass sums and coefficients a group of it has.
struct LossCounts {
  bool element_wise;
  int statistics, second_pass_sums, coefficients;
};

// The ops of one device. An engine allocates coefficients itself if the caller does not keep them. Engine has
// counts_of, forward, backward and scale, and for losses over parts of the labels statistics, second_pass, merge and
// finalize; see csrc/cpu/register.cpp.
template <class Engine>
struct Ops {
  static std::tuple<Tensor, Tensor> forward_into(const Tensor& logits, const Arguments& a, bool keep_coefficients,
                                                 void* gradient) {
    const LossCounts counts = Engine::counts_of(a.loss, logits);
    const Call call = make_call(logits, a, gradient);
    const Reduction reduction = static_cast<Reduction>(a.reduction);
    const ScalarType dtype = compute_dtype(logits);
    Tensor value = new_value(logits, call, reduction, dtype);
    const bool kept = keep_coefficients && !counts.element_wise;
    Tensor coefficients = kept ? new_tensor(logits, {counts.coefficients, group_count(call)}, dtype)
                               : new_tensor(logits, {keep_coefficients ? counts.coefficients : 0, 0}, dtype);
    ForwardOutputs out{};
    (reduction == Reduction::kNone ? out.values : out.total) = value.mutable_data_ptr();
    out.coefficients = kept ? coefficients.mutable_data_ptr() : nullptr;
    out.gradient = gradient;
    Engine::forward(a.loss, call, out, logits);
    return {value, coefficients};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward_into(const Tensor& logits, const Arguments& a,
                                                          const Tensor& coefficients, const Tensor& grad_output,
                                                          bool need_row, bool need_scale, bool need_label,
                                                          void* gradient) {
    const Call call = make_call(logits, a, gradient);
    const ScalarType dtype = compute_dtype(logits);
    Tensor row = new_tensor(logits, {need_row ? call.rows : 0}, dtype);
    Tensor scale = new_tensor(logits, {need_scale ? call.rows : 0}, dtype);
    Tensor label = new_tensor(logits, {need_label ? call.labels : 0}, dtype);
    BackwardOutputs out{};
    out.coefficients = coefficients.const_data_ptr();
    set_grad_output(out, call, grad_output);
    out.gradient = gradient;
    out.row_gradient = need_row ? row.mutable_data_ptr() : nullptr;
    out.scale_gradient = need_scale ? scale.mutable_data_ptr() : nullptr;
    out.label_gradient = need_label ? label.mutable_data_ptr() : nullptr;
    Engine::backward(a.loss, call, out, logits);
    return {row, scale, label};
  }

  // The boxed entry points take arguments of their own, the logits, and the shared arguments.
#define MLLOSS_PARAMETER(type, name) , type name
#define MLLOSS_MOVED(type, name) std::move(name),
#define MLLOSS_SHARED Tensor logits MLLOSS_CALL(MLLOSS_PARAMETER)
#define MLLOSS_ARGUMENTS \
  Arguments { MLLOSS_CALL(MLLOSS_MOVED) }

  static std::tuple<Tensor, Tensor, Tensor> loss_forward(bool keep_coefficients, bool form_gradient, MLLOSS_SHARED) {
    Tensor gradient = new_gradient(logits, form_gradient);
    void* memory = form_gradient ? gradient.mutable_data_ptr() : nullptr;
    auto results = forward_into(logits, MLLOSS_ARGUMENTS, keep_coefficients, memory);
    return {std::get<0>(results), std::get<1>(results), gradient};
  }

  static std::tuple<Tensor, Tensor> loss_forward_(bool keep_coefficients, MLLOSS_SHARED) {
    return forward_into(logits, MLLOSS_ARGUMENTS, keep_coefficients, logits.mutable_data_ptr());
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> loss_backward(Tensor coefficients, Tensor grad_output,
                                                                  bool need_logits, bool need_row, bool need_scale,
                                                                  bool need_label, MLLOSS_SHARED) {
    Tensor gradient = new_gradient(logits, need_logits);
    void* memory = need_logits ? gradient.mutable_data_ptr() : nullptr;
    auto sums =
        backward_into(logits, MLLOSS_ARGUMENTS, coefficients, grad_output, need_row, need_scale, need_label, memory);
    return {gradient, std::get<0>(sums), std::get<1>(sums), std::get<2>(sums)};
  }

  static std::tuple<Tensor, Tensor, Tensor> loss_backward_(Tensor coefficients, Tensor grad_output, bool need_row,
                                                           bool need_scale, bool need_label, MLLOSS_SHARED) {
    return backward_into(logits, MLLOSS_ARGUMENTS, coefficients, grad_output, need_row, need_scale, need_label,
                         logits.mutable_data_ptr());
  }

  static std::tuple<Tensor, Tensor, Tensor> pair_forward(MLLOSS_SHARED) {
    const Arguments a = MLLOSS_ARGUMENTS;
    const Call call = make_call(logits, a);
    STD_TORCH_CHECK(static_cast<Reduction>(a.reduction) != Reduction::kNone, "mlloss_cuda: pair_forward needs a total");
    Tensor value = new_tensor(logits, {}, compute_dtype(logits));
    Tensor gradient = new_gradient(logits, true), other_gradient = new_gradient(logits, true);
    ForwardOutputs out{};
    out.total = value.mutable_data_ptr();
    out.gradient = gradient.mutable_data_ptr();
    out.other_gradient = other_gradient.mutable_data_ptr();
    Engine::forward(a.loss, call, out, logits);
    return {value, gradient, other_gradient};
  }

  static std::tuple<Tensor, Tensor> pair_backward(Tensor grad_output, MLLOSS_SHARED) {
    const Arguments a = MLLOSS_ARGUMENTS;
    const Call call = make_call(logits, a);
    Tensor gradient = new_gradient(logits, true), other_gradient = new_gradient(logits, true);
    BackwardOutputs out{};
    set_grad_output(out, call, grad_output);
    out.gradient = gradient.mutable_data_ptr();
    out.other_gradient = other_gradient.mutable_data_ptr();
    Engine::backward(a.loss, call, out, logits);
    return {gradient, other_gradient};
  }

  static Tensor loss_statistics(MLLOSS_SHARED) {
    const Arguments a = MLLOSS_ARGUMENTS;
    const Call call = make_call(logits, a);
    const LossCounts counts = Engine::counts_of(a.loss, logits);
    STD_TORCH_CHECK(!counts.element_wise && call.grouping != Grouping::kMacro,
                    "mlloss_cuda: groups that lie within a part of the labels need loss_forward");
    Tensor out = new_of_groups(logits, counts.statistics, group_count(call));
    Engine::statistics(a.loss, call, static_cast<double*>(out.mutable_data_ptr()), logits);
    return out;
  }

  static Tensor loss_second_pass(Tensor statistics, MLLOSS_SHARED) {
    const Arguments a = MLLOSS_ARGUMENTS;
    const Call call = make_call(logits, a);
    Tensor out = new_of_groups(logits, Engine::counts_of(a.loss, logits).second_pass_sums, group_count(call));
    const double* known = static_cast<const double*>(statistics.const_data_ptr());
    Engine::second_pass(a.loss, call, known, static_cast<double*>(out.mutable_data_ptr()), logits);
    return out;
  }
#undef MLLOSS_PARAMETER
#undef MLLOSS_MOVED
#undef MLLOSS_SHARED
#undef MLLOSS_ARGUMENTS

  static Tensor loss_merge(Tensor statistics, std::string loss) {
    Tensor out = new_of_groups(statistics, statistics.size(1), statistics.size(2));
    Engine::merge(loss, parts_of(statistics), static_cast<double*>(out.mutable_data_ptr()), statistics);
    return out;
  }

  static std::tuple<Tensor, Tensor> loss_finalize(Tensor statistics, Tensor second_sums, OptionalTensor sample_weight,
                                                  OptionalTensor normalizer, std::string loss,
                                                  std::vector<double> parameters, int64_t grouping, int64_t reduction,
                                                  int64_t rows, ScalarType dtype) {
    LabelParts parts = parts_of(statistics);
    if (second_sums.numel() > 0) parts.second_pass_sums = static_cast<const double*>(second_sums.const_data_ptr());
    Call call{};
    call.rows = rows;
    call.grouping = static_cast<Grouping>(grouping);
    call.logits_dtype = dtype == ScalarType::Double ? DType::kDouble : DType::kFloat;
    call.sample_weight = pointer(sample_weight);
    call.normalizer = pointer(normalizer);
    call.factor = reduction_factor(call.grouping, static_cast<Reduction>(reduction), rows, 0);
    set_parameters(call, parameters);
    Tensor value = new_value(statistics, call, static_cast<Reduction>(reduction), dtype);
    const int kept = Engine::counts_of(loss, statistics).coefficients;
    Tensor coefficients = new_tensor(statistics, {kept, parts.groups}, dtype);
    ForwardOutputs out{};
    (static_cast<Reduction>(reduction) == Reduction::kNone ? out.values : out.total) = value.mutable_data_ptr();
    out.coefficients = coefficients.mutable_data_ptr();
    Engine::finalize(loss, call, parts, out, statistics);
    return {value, coefficients};
  }

  static Tensor new_of_groups(const Tensor& like, int64_t count, int64_t groups) {
    return new_tensor(like, {count, groups}, ScalarType::Double);
  }

  static LabelParts parts_of(const Tensor& statistics) {
    return {statistics.size(0), statistics.size(2), static_cast<const double*>(statistics.const_data_ptr()), nullptr};
  }

  static Tensor scale_gradient(Tensor gradient, Tensor grad_output) {
    Tensor scaled = torch::stable::clone(gradient);
    Engine::scale(scaled, grad_output);
    return scaled;
  }

  static void scale_gradient_(Tensor gradient, Tensor grad_output) { Engine::scale(gradient, grad_output); }

  static void implement(torch::stable::detail::StableLibrary& m) {
    m.impl("loss_forward", TORCH_BOX(&loss_forward));
    m.impl("loss_forward_", TORCH_BOX(&loss_forward_));
    m.impl("loss_backward", TORCH_BOX(&loss_backward));
    m.impl("loss_backward_", TORCH_BOX(&loss_backward_));
    m.impl("pair_forward", TORCH_BOX(&pair_forward));
    m.impl("pair_backward", TORCH_BOX(&pair_backward));
    m.impl("scale_gradient", TORCH_BOX(&scale_gradient));
    m.impl("scale_gradient_", TORCH_BOX(&scale_gradient_));
    m.impl("loss_statistics", TORCH_BOX(&loss_statistics));
    m.impl("loss_second_pass", TORCH_BOX(&loss_second_pass));
    m.impl("loss_merge", TORCH_BOX(&loss_merge));
    m.impl("loss_finalize", TORCH_BOX(&loss_finalize));
  }
};

}  // namespace mlloss
