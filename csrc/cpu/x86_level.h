// The highest level of x86-64 that this processor has and the kernels are compiled for. CMake runs this code too.
#pragma once

namespace mlloss::cpu {

enum Isa : int { kBaseline, kX8664V3, kX8664V4, kIsaCount };

inline Isa machine_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? kX8664V4 : v3 ? kX8664V3 : kBaseline;
#else
  return kBaseline;
#endif
}

}  // namespace mlloss::cpu
