// Runs CUDA kernels on the CPU: every CUDA thread is a fiber on one OS thread. All blocks of a cooperative
// launch are alive together; otherwise blocks run one after another. Control moves only at barriers, warp
// exchanges and spin(). Always checked: barrier divergence and deadlock, waits for what nobody writes,
// shuffle masks and source lanes, launch limits, alignment of hinted accesses; fresh memory is NaN.
// A block has the shared memory that needs no permission. How much static shared memory a kernel has shows when it
// runs: each is charged kStaticShared at its launch, and once more what it had.
// Clusters are not emulated, and a launch with an attribute other than the cooperative one is refused.
// Under ASan every shared array is a heap block of its exact size. Under -fsanitize=thread the only
// happens-before edges are CUDA's own.
// CUEMU_ORDER=fifo|lifo|random, CUEMU_SEED=n, CUEMU_SKIP_SYNC=file:line (leaves one barrier or fence out),
// CUEMU_REFUSE=1 (no launch is accepted), CUEMU_SMS=n (multiprocessors, 2 without), CUEMU_BLOCKS=n (blocks that are
// resident on each, at most; 8 without): a cooperative launch of more than both and kThreadsPerSm allow is refused.
// CUEMU_COOPERATIVE=0 refuses every cooperative launch. CUEMU_STREAM=n is the current stream.
#pragma once
#ifndef CUEMU
#error "Compile with -DCUEMU=1: headers before this one would otherwise take the CPU engine's code for a processor."
#endif
#include <cuda_bf16.h>  // these toolkit headers are host-usable
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <math_constants.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#define CUEMU_NOTSAN __attribute__((no_sanitize("thread"), noinline))
#define CUEMU_AT const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define CUEMU_SITE(op) \
  cuemu::Site { op, file_, line_ }
#define __launch_bounds__(...)
#undef __cluster_dims__
#define __cluster_dims__ cuemu_error_clusters_are_not_emulated
#undef __shared__
#define __shared__ cuemu_error_use_the_project_shared_memory_macro

extern "C" {  // sanitizer interfaces, weak: one source serves plain, ASan and TSan builds
#define W_ __attribute__((weak))
W_ void* __tsan_get_current_fiber(void);
W_ void* __tsan_create_fiber(unsigned);
W_ void __tsan_destroy_fiber(void*);
W_ void __tsan_switch_to_fiber(void*, unsigned);
W_ void __tsan_acquire(void*);
W_ void __tsan_release(void*);
W_ void __tsan_ignore_thread_begin(void);
W_ void __tsan_ignore_thread_end(void);
W_ void __tsan_atomic_thread_fence(int);
W_ void cuemu_shadow_reset(void*, size_t);        // race_runtime.cpp: fresh memory
W_ void cuemu_fiber_stack(void*, void*, size_t);  // race_runtime.cpp: a fiber's own, where it cannot race
W_ void __sanitizer_start_switch_fiber(void**, const void*, size_t);
W_ void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
#undef W_
}

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuemu {
struct Thread;
struct Block;
struct Site {
  const char *op, *file;
  int line;
};
struct Call {
  void (*fn)(void*);
  void* arg;
};
struct Quiet {  // TSan must not look at the emulator's own bookkeeping
  Quiet() {
    if (__tsan_ignore_thread_begin) __tsan_ignore_thread_begin();
  }
  ~Quiet() {
    if (__tsan_ignore_thread_end) __tsan_ignore_thread_end();
  }
};
struct Bar {
  unsigned count = 0, gen = 0;
  Site site{};
  char tag[2];
  std::vector<Thread*> waiting;
  Bar() {
    if (cuemu_shadow_reset) cuemu_shadow_reset(tag, sizeof tag);
  }
};
struct Warp {
  bool spun = false;  // tells whether a lane has called spin() since the last barrier of the block
  alignas(8) unsigned char slot[32][8];
  unsigned lanes;
  std::map<unsigned, Bar> bars;
};
struct Block {
  uint3 idx;
  unsigned nthreads, live;
  size_t dyn;
  std::vector<Warp> warps;
  Bar bar;
  std::map<const void*, std::pair<unsigned char*, size_t>> shared;  // declaration -> exact-size heap block
};
struct Thread {
  uint3 tid;
  unsigned lane;
  Block* blk;
  Warp* warp;
  ucontext_t ctx;
  unsigned char* stack;
  void *tsan, *fake;
};
struct Sched {
  std::deque<Thread*> ready;
  std::mt19937 rng;
  char order;
  Call body;
  std::vector<unsigned char*> pool;
  std::vector<Block>* blocks;  // holds those that are alive now
  size_t live = 0;             // counts their threads that have not finished
  size_t spins = 0;            // counts calls of spin() since the last progress
  ucontext_t main;
  void *tsan, *fake;
  const void* stack;
  size_t stack_size;
};
inline Sched S;
inline Thread* cur;
inline char end_tag, dyn_key;
inline int launches = 0, cooperative_launches = 0, refusals = 0, occupancy_queries = 0;
inline long long chunk_bytes = 0;             // read by __ldcs, 16 bytes at a time
constexpr size_t kStaticShared = 2 << 10;     // as csrc/core/launch_plan.h has it
constexpr size_t kMostShared = 48 << 10;      // a block's most, static and dynamic, without permission for more
inline cudaError_t last_error = cudaSuccess;  // until cudaGetLastError takes it
inline cudaError_t refuse(cudaError_t error) {
  ++refusals;
  return last_error = error;
}
constexpr size_t kStack = 64 << 10;

inline const char* env(const char* name, const char* dflt) {
  const char* v = std::getenv(name);
  return v ? v : dflt;
}
inline const std::string skip_sync = std::string("/") + env("CUEMU_SKIP_SYNC", "");
inline bool skipped(Site s) {
  if (skip_sync.size() == 1) return false;
  const std::string here = std::string("/") + s.file + ":" + std::to_string(s.line);
  return here.size() >= skip_sync.size() && !here.compare(here.size() - skip_sync.size(), std::string::npos, skip_sync);
}
[[noreturn]] inline void fail(const char* what, Site s, const std::string& more = "") {
  std::fprintf(stderr, "cuemu: ERROR: %s: %s at %s:%d", what, s.op, s.file, s.line);
  if (cur)
    std::fprintf(stderr, ", block (%u,%u,%u) thread (%u,%u,%u)", cur->blk->idx.x, cur->blk->idx.y, cur->blk->idx.z,
                 cur->tid.x, cur->tid.y, cur->tid.z);
  std::fprintf(stderr, "%s\n", more.c_str());
  std::fflush(nullptr);
  std::abort();
}

CUEMU_NOTSAN inline void switch_to(Thread* to, bool dying = false) {  // nullptr = the host
  Thread* me = cur;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(dying ? nullptr
                                   : me  ? &me->fake
                                         : &S.fake,
                                   to ? to->stack : S.stack, to ? kStack : S.stack_size);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to ? to->tsan : S.tsan, 1);  // 1: no happens-before edge
  cur = to;
  if (to) {
    threadIdx = to->tid;
    blockIdx = to->blk->idx;
  }
  swapcontext(me ? &me->ctx : &S.main, to ? &to->ctx : &S.main);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(me ? me->fake : S.fake, nullptr, nullptr);
}
inline Thread* pick() {
  if (S.ready.empty()) return nullptr;
  if (S.order == 'r') std::swap(S.ready[S.rng() % S.ready.size()], S.ready.back());
  Thread* t = S.order == 'f' ? S.ready.front() : S.ready.back();
  if (S.order == 'f')
    S.ready.pop_front();
  else
    S.ready.pop_back();
  return t;
}
[[noreturn]] inline void deadlock() {
  auto check = [](const Bar& b, unsigned need) {
    if (b.count) {
      cur = nullptr;
      fail("deadlock: only some participants arrived", b.site,
           "; " + std::to_string(b.count) + " of " + std::to_string(need) + " are waiting there");
    }
  };
  for (Block& b : *S.blocks) {
    for (Warp& w : b.warps)
      for (auto& m : w.bars) check(m.second, unsigned(__builtin_popcount(m.first)));
    check(b.bar, b.nthreads);
  }
  std::abort();
}
// Lets all other threads run before it returns; in a random order each of them is as likely to run as this one. Kernels
// call it between two looks at what another thread writes. It orders no memory. The process ends if nobody else can
// run, or if nothing but waits has happened for 1000 rounds: so end blocks that wait for each other and are not
// resident together.
inline void spin(Site s) {
  Quiet q;
  if (S.ready.empty() || ++S.spins > 1000 * (S.ready.size() + 1)) fail("waits for what nobody writes", s);
  cur->warp->spun = true;
  if (S.order == 'l')
    S.ready.push_front(cur);
  else
    S.ready.push_back(cur);
  Thread* n = pick();
  if (n != cur) switch_to(n);
}
// Takes an arrival for progress. The exchange of a warp that waits is none, as it may be a vote on whether to go on.
inline void note_progress(bool of_warp) {
  if (!of_warp) cur->warp->spun = false;
  if (!cur->warp->spun) S.spins = 0;
}
inline void arrive(Bar& b, unsigned need, Site s, bool orders_memory, bool of_warp) {
  note_progress(of_warp);
  if (!b.count)
    b.site = s;
  else if (b.site.line != s.line || b.site.op != s.op)
    fail("divergent participants", s,
         "; others are at " + std::string(b.site.op) + " line " + std::to_string(b.site.line));
  char* tag = &b.tag[b.gen & 1];
  if (orders_memory && __tsan_release) __tsan_release(tag);
  if (++b.count < need) {
    b.waiting.push_back(cur);
    Thread* n = pick();
    if (!n) deadlock();
    switch_to(n);
  } else {
    b.count = 0;
    b.gen++;
    S.ready.insert(S.ready.end(), b.waiting.begin(), b.waiting.end());
    b.waiting.clear();
    if (S.order != 'f') {
      S.ready.push_back(cur);
      Thread* n = pick();
      if (n != cur) switch_to(n);
    }
  }
  if (orders_memory && __tsan_acquire) __tsan_acquire(tag);
}
inline Thread* retire() {  // the current thread has finished: who runs next?
  Block* b = cur->blk;
  Quiet q;
  S.spins = 0;
  if (!--b->live && !__tsan_create_fiber)
    for (auto& m : b->shared) std::free(std::exchange(m.second.first, nullptr));
  --S.live;
  Thread* n = pick();
  if (!n && S.live) deadlock();
  return n;
}
CUEMU_NOTSAN inline void fiber_main() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, S.stack ? nullptr : &S.stack, S.stack ? nullptr : &S.stack_size);
  S.body.fn(S.body.arg);
  if (__tsan_release) __tsan_release(&end_tag);
  switch_to(retire(), true);
}
// The emulator's own to these, before and after: malloc gives the memory out again.
inline void forget_accesses(std::vector<Thread>& ts) {
  if (cuemu_shadow_reset) cuemu_shadow_reset(ts.data(), ts.size() * sizeof(Thread));
}
inline void run_together(std::vector<Thread>& ts) {
  const bool tsan = __tsan_create_fiber;
  S.stack = nullptr;
  if (tsan) S.tsan = __tsan_get_current_fiber();
  forget_accesses(ts);
  for (Thread& t : ts) {
    if (tsan)
      t.stack = static_cast<unsigned char*>(std::malloc(kStack));  // malloc resets TSan's shadow
    else if (!S.pool.empty()) {
      t.stack = S.pool.back();
      S.pool.pop_back();
    } else {
      void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (stack == MAP_FAILED) fail("no memory for the stack of a thread", {"launch", "?", 0});
      t.stack = static_cast<unsigned char*>(stack);
      mprotect(t.stack, 4096, PROT_NONE);
    }
    if (tsan) t.tsan = __tsan_create_fiber(0);
    if (cuemu_fiber_stack) cuemu_fiber_stack(t.tsan, t.stack, kStack);
    getcontext(&t.ctx);
    t.ctx.uc_stack.ss_sp = t.stack;
    t.ctx.uc_stack.ss_size = kStack;
    t.ctx.uc_link = nullptr;
    makecontext(&t.ctx, fiber_main, 0);
    S.ready.push_back(&t);
  }
  switch_to(pick());
  forget_accesses(ts);
  // TSan recycles ids in order; a rotated order keeps "thread 0 of every block" from sharing one id
  if (tsan)
    for (size_t n = ts.size(), i = 0; i < n; i++) {
      Thread& t = ts[(i + 5) % n];
      __tsan_destroy_fiber(t.tsan);
      std::free(t.stack);
    }
  else
    for (Thread& t : ts) S.pool.push_back(t.stack);
}
inline void check_shared(const Block& block, size_t most) {
  size_t bytes = 0;
  for (const auto& m : block.shared) bytes += m.second.second;
  if (bytes > most)
    fail("more shared memory than the kernel may have", {"launch", "?", 0}, ": " + std::to_string(bytes) + " bytes");
}
// Sets up block `index` of the grid, counted along x first, in the memory of the block and its threads.
inline void place_block(Block& k, size_t index, size_t dynamic_shared, Thread* ts) {
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  k.idx = {unsigned(index % gridDim.x), unsigned(index / gridDim.x % gridDim.y),
           unsigned(index / gridDim.x / gridDim.y)};
  k.nthreads = k.live = n;
  k.dyn = dynamic_shared;
  k.warps.resize((n + 31) / 32);
  for (unsigned w = 0; w < k.warps.size(); w++) k.warps[w].lanes = n - w * 32 >= 32 ? ~0u : (1u << (n - w * 32)) - 1;
  for (unsigned i = 0; i < n; i++) {
    Thread& t = ts[i];
    t.tid = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    t.lane = i & 31;
    t.blk = &k;
    t.warp = &k.warps[i / 32];
  }
}
inline int multiprocessors() { return std::atoi(env("CUEMU_SMS", "2")); }
constexpr int kThreadsPerSm = 256;  // so few that teams have several blocks at small shapes too
// Returns how many blocks of a cooperative launch each multiprocessor has room for.
inline int resident_blocks(size_t threads) {
  return std::min(std::atoi(env("CUEMU_BLOCKS", "8")), kThreadsPerSm / int(threads));
}
inline cudaError_t launch(const cudaLaunchConfig_t& cfg, Call body) {
  Quiet q;
  const dim3 g = cfg.gridDim, b = cfg.blockDim;
  bool cooperative = false;
  size_t n = size_t(b.x) * b.y * b.z;
  for (unsigned i = 0; i < cfg.numAttrs; i++) {
    if (cfg.attrs[i].id != cudaLaunchAttributeCooperative) return refuse(cudaErrorNotSupported);
    cooperative = cfg.attrs[i].val.cooperative != 0;
  }
  if (!n || n > 1024 || b.z > 64 || !g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return refuse(cudaErrorInvalidConfiguration);
  if (cfg.dynamicSmemBytes > kMostShared - kStaticShared) return refuse(cudaErrorInvalidValue);
  const size_t count = size_t(g.x) * g.y * g.z;
  const bool fits = count <= size_t(multiprocessors()) * size_t(resident_blocks(n));
  if (cooperative && (!fits || env("CUEMU_COOPERATIVE", "1")[0] == '0'))
    return refuse(cudaErrorCooperativeLaunchTooLarge);
  if (env("CUEMU_REFUSE", "0")[0] == '1') return refuse(cudaErrorLaunchOutOfResources);
  ++launches;
  cooperative_launches += cooperative;
  S.rng.seed(unsigned(std::atoi(env("CUEMU_SEED", "1"))));
  S.order = env("CUEMU_ORDER", "fifo")[0];
  S.body = body;
  S.spins = 0;
  gridDim = g;
  blockDim = b;
  const size_t together = cooperative ? count : 1;
  for (size_t first = 0; first < count; first += together) {
    std::vector<Block> blocks(together);
    std::vector<Thread> ts(together * n);
    S.live = ts.size();
    S.blocks = &blocks;
    for (size_t i = 0; i < together; i++) place_block(blocks[i], first + i, cfg.dynamicSmemBytes, &ts[i * n]);
    run_together(ts);
    for (Block& k : blocks) {
      check_shared(k, kMostShared);
      for (auto& m : k.shared) {
        if (cuemu_shadow_reset) cuemu_shadow_reset(m.second.first, m.second.second);  // malloc gives it out again
        std::free(m.second.first);
      }
    }
  }
  if (__tsan_acquire) __tsan_acquire(&end_tag);
  return cudaSuccess;
}
template <class K, class Tup, size_t... I>
cudaError_t launch_tuple(const cudaLaunchConfig_t& cfg, K* kernel, Tup args, std::index_sequence<I...>) {
  struct Box {
    K* k;
    Tup a;
  } box{kernel, args};
  const Call call{[](void* p) {
                    Box& b = *static_cast<Box*>(p);
                    b.k(std::get<I>(b.a)...);
                  },
                  &box};
  return launch(cfg, call);
}

}  // namespace cuemu
