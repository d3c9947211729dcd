// Shared memory, barriers and warp exchanges, as the kernels see them.
#pragma once
#include "scheduler.h"

namespace cuemu {
inline unsigned char* shared_at(Block* b, const void* key, size_t bytes) {
  Quiet q;
  auto& e = b->shared[key];
  if (!b->live) fail("shared memory of an exited block", {"map_shared_rank", "?", 0});
  if (!e.first) {
    void* v = nullptr;
    if (posix_memalign(&v, 16, bytes ? bytes : 1)) std::abort();
    e = {static_cast<unsigned char*>(std::memset(v, 0xFF, bytes)), bytes};
    if (cuemu_shadow_reset) cuemu_shadow_reset(v, bytes);
  }
  return e.first;
}
inline void block_sync(Site s) {
  Quiet q;
  if (s.line != skip_line) arrive(cur->blk->bar, cur->blk->nthreads, s, true);
}
inline void cluster_sync(Site s) {
  Quiet q;
  if (s.line != skip_line) arrive(cur->blk->cl->bar, cur->blk->cl->nthreads, s, true);
}
inline void warp_sync(unsigned mask, Site s, bool orders_memory) {
  Quiet q;
  Warp& w = *cur->warp;
  if (!(mask >> cur->lane & 1)) fail("calling lane is not in its own mask", s);
  if (mask & ~w.lanes) fail("mask names lanes that do not exist", s);
  arrive(w.bars[mask], unsigned(__builtin_popcount(mask)), s, orders_memory);
}
template <class T, class F>
T collective(unsigned mask, T v, Site s, F&& f) {  // f(read) -> result; orders no memory
  static_assert(sizeof(T) <= 8, "warp exchanges move 2, 4 or 8 bytes");
  Quiet q;
  Warp& w = *cur->warp;
  __builtin_memcpy(w.slot[cur->lane], static_cast<void*>(&v), sizeof(T));
  warp_sync(mask, s, false);
  T r = f([&](int src) {
    T x;
    if (!(mask >> (src & 31) & 1)) fail("reads a lane outside the mask", s);
    __builtin_memcpy(static_cast<void*>(&x), w.slot[src & 31], sizeof(T));
    return x;
  });
  warp_sync(mask, s, false);
  return r;
}
template <class T>
T shfl(unsigned mask, T v, int src, bool in_segment, Site s) {
  return collective(mask, v, s, [&](auto read) { return in_segment ? read(src) : v; });
}
template <class T, class F>
T reduce(unsigned mask, T v, Site s, F op) {
  return collective(mask, v, s, [&](auto read) {
    int i = __builtin_ctz(mask);
    T a = read(i);
    while (++i < 32)
      if (mask >> i & 1) a = T(op(a, read(i)));
    return a;
  });
}
template <class T>
const T* aligned(const T* p, Site s) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) fail("misaligned access", s);
  return p;
}
}  // namespace cuemu

// In kernels, through the project's own macro: SHARED(float, buf, [32]); DYN_SHARED(float, smem);
#define CUEMU_SHARED(T, name, dims) \
  static char name##_key_;          \
  using name##_t_ = T dims;         \
  name##_t_& name = *reinterpret_cast<name##_t_*>(cuemu::shared_at(cuemu::cur->blk, &name##_key_, sizeof(name##_t_)))
#define CUEMU_DYN_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(cuemu::shared_at(cuemu::cur->blk, &cuemu::dyn_key, cuemu::cur->blk->dyn))
