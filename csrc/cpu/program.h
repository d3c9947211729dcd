// The kernels for a loss or a sum of losses, found by name.
#pragma once

#include <string>
#include <vector>

#include "../losses/registry.h"
#include "instruction_set.h"

namespace mlloss {
namespace cpu {

#define MLLOSS_NAME(name, Functor) #name,
constexpr const char* kLossNames[] = {MLLOSS_FOR_EACH_LOSS(MLLOSS_NAME)};

// The kernels for a loss, or for a sum of losses in one pass.
struct Program {
  LossKernels kernels;
  std::vector<int> terms;  // a sum of losses: the places of its terms in the registry

  void name_terms(Work& work) const {
    work.terms = terms.data();
    work.term_count = static_cast<int>(terms.size());
  }
};

inline int place_of(const std::string& loss) {
  for (int i = 0; i < table().losses; ++i) {
    if (loss == kLossNames[i]) return i;
  }
  STD_TORCH_CHECK(false, "mlloss_cuda: this build has no kernels for the loss ", loss);
}

// `wide`: the logits are float64.
inline Program program_of(const std::string& loss, bool wide) {
  const Table t = table();
  const LossKernels* losses = wide ? t.float64 : t.float32;
  if (loss.find(kCompound) == std::string::npos) return {losses[place_of(loss)], {}};
  Program program{wide ? t.compound64 : t.compound32, {}};
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = loss.find(kCompound, begin);
    const int place = place_of(loss.substr(begin, end == std::string::npos ? end : end - begin));
    program.terms.push_back(place);
    program.kernels.statistics += losses[place].element_wise ? 1 : losses[place].statistics;
    program.kernels.coefficients += losses[place].coefficients + 1;  // one more for the term's value
  }
  STD_TORCH_CHECK(program.terms.size() <= kMostTerms, "mlloss_cuda: too many terms in a sum of losses");
  return program;
}

inline Program program_of(const std::string& loss, const Tensor& logits) {
  return program_of(loss, logits.scalar_type() == ScalarType::Double);
}

}  // namespace cpu
}  // namespace mlloss
