// CUDA's device functions, as far as the kernels use them.
#pragma once
#include "exchange.h"

inline void __syncthreads(CUEMU_AT) { cuemu::block_sync(CUEMU_SITE("__syncthreads")); }
inline void __syncwarp(unsigned m = ~0u, CUEMU_AT) {
  cuemu::Quiet q;
  const cuemu::Site site = CUEMU_SITE("__syncwarp");
  if (!cuemu::skipped(site)) cuemu::warp_sync(m & cuemu::cur->warp->lanes, site, true);
}
inline void __threadfence(CUEMU_AT) {
  cuemu::Quiet q;
  if (__tsan_atomic_thread_fence && !cuemu::skipped(CUEMU_SITE("__threadfence")))
    __tsan_atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#define SHFL_(name, arg, src, ok)                                                      \
  template <class T>                                                                   \
  T name(unsigned m, T v, arg a, int w = 32, CUEMU_AT) {                               \
    const int l = int(cuemu::cur->lane), lo = l & ~(w - 1), hi = l | (w - 1), s = src; \
    (void)lo;                                                                          \
    (void)hi;                                                                          \
    return cuemu::shfl(m, v, s, ok, CUEMU_SITE(#name));                                \
  }
SHFL_(__shfl_sync, int, lo + (a & (w - 1)), true)
SHFL_(__shfl_xor_sync, int, l ^ a, s <= hi)
SHFL_(__shfl_down_sync, unsigned, l + int(a), s <= hi)
SHFL_(__shfl_up_sync, unsigned, l - int(a), s >= lo)
#define RED_(name, expr)                                                          \
  template <class T>                                                              \
  T name(unsigned m, T v, CUEMU_AT) {                                             \
    return cuemu::reduce(m, v, CUEMU_SITE(#name), [](T a, T b) { return expr; }); \
  }
RED_(__reduce_add_sync, a + b)
RED_(__reduce_min_sync, (b < a ? b : a)) RED_(__reduce_max_sync, (a < b ? b : a))
    RED_(__reduce_or_sync, a | b) inline unsigned __ballot_sync(unsigned m, int p, CUEMU_AT) {
  return __reduce_or_sync(m, p ? 1u << cuemu::cur->lane : 0u, file_, line_);
}
inline int __any_sync(unsigned m, int p, CUEMU_AT) { return __ballot_sync(m, p, file_, line_) != 0; }
inline int __all_sync(unsigned m, int p, CUEMU_AT) { return __ballot_sync(m, p, file_, line_) == m; }
#define LD_(name)                                 \
  template <class T>                              \
  T name(const T* p, CUEMU_AT) {                  \
    return *cuemu::aligned(p, CUEMU_SITE(#name)); \
  }
LD_(__ldg)
LD_(__ldca) LD_(__ldcg) LD_(__ldlu) LD_(__ldcv)
template <class T>
T __ldcs(const T* p, CUEMU_AT) {
  if (sizeof(T) == 16) __atomic_fetch_add(&cuemu::chunk_bytes, 16, __ATOMIC_RELAXED);
  return *cuemu::aligned(p, CUEMU_SITE("__ldcs"));
}
#define ST_(name)                                      \
  template <class T>                                   \
  void name(T* p, std::common_type_t<T> v, CUEMU_AT) { \
    cuemu::aligned(p, CUEMU_SITE(#name));              \
    *p = v;                                            \
  }
    ST_(__stwb) ST_(__stcg) ST_(__stcs) ST_(__stwt)
#define AT_(name, expr)                                                                            \
  template <class T>                                                                               \
  T name(T* p, std::common_type_t<T> v) {                                                          \
    T old, nw;                                                                                     \
    __atomic_load(p, &old, __ATOMIC_RELAXED);                                                      \
    do {                                                                                           \
      nw = expr;                                                                                   \
    } while (!__atomic_compare_exchange(p, &old, &nw, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); \
    return old;                                                                                    \
  }
        AT_(atomicAdd, T(old + v)) AT_(atomicMax, (old > v ? old : v)) AT_(atomicMin, (old < v ? old : v))
            AT_(atomicOr, T(old | v)) AT_(atomicExch, v) AT_(atomicInc, T(old >= v ? 0 : old + 1)) template <class T>
            T atomicCAS(T* p, std::common_type_t<T> cmp, std::common_type_t<T> v) {
  __atomic_compare_exchange(p, &cmp, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return cmp;
}
template <class To, class From>
To cuemu_bits(From f) {
  To t;
  static_assert(sizeof(t) == sizeof(f));
  std::memcpy(&t, &f, sizeof t);
  return t;
}
inline unsigned __float_as_uint(float f) { return cuemu_bits<unsigned>(f); }
inline int __float_as_int(float f) { return cuemu_bits<int>(f); }
inline float __uint_as_float(unsigned u) { return cuemu_bits<float>(u); }
inline float __int_as_float(int i) { return cuemu_bits<float>(i); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
T min(T a, std::common_type_t<T> b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, std::common_type_t<T> b) {
  return a < b ? b : a;
}
