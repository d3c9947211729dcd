// Small kernels, correct ones and ones with a bug, to test the detectors with:
//   planted_bugs --list   every case, and which detectors must catch it: none for a correct one; "plain:lifo" is
//                         the plain detector with the threads in that order (CUEMU_ORDER)
//   planted_bugs CASE     runs it; 1 if the result is wrong, 3 if the launch is refused, or a detector ends it
// The detectors: "plain" (the emulator's own checks, and the result), "sanitized" (AddressSanitizer and
// UndefinedBehaviorSanitizer), "races" (race_runtime.cpp).
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/device/portability.cuh"

namespace {

constexpr unsigned kAll = 0xffffffffu;

// ---- barriers in a block -------------------------------------------------------------------------

// Called twice it needs the trailing barrier: the first call's parts are still being read.
__device__ float block_sum(float x, bool trailing) {
  MLLOSS_SHARED(float, parts, [8]);
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(kAll, x, distance);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
  if (trailing) __syncthreads();
  return sum;
}

__global__ void two_sums(float* out, bool trailing) {
  const float first = block_sum(1.0f, trailing), second = block_sum(float(threadIdx.x), trailing);
  out[blockIdx.x * blockDim.x + threadIdx.x] = first + second;
}

// Returns the number that another thread of the block has put into shared memory.
__global__ void held_by_another(float* out, bool barrier) {
  MLLOSS_DYNAMIC_SHARED(float, held);
  held[threadIdx.x] = float(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = held[threadIdx.x ^ 32];
}

__global__ void early_return(float* out, int count) {
  if (int(threadIdx.x) >= count) return;
  __syncthreads();
  out[threadIdx.x] = float(threadIdx.x);
}

__global__ void two_barriers_at_once(float* out) {
  if (threadIdx.x & 1) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = float(threadIdx.x);
}

// ---- warps ---------------------------------------------------------------------------------------

__global__ void neighbour_in_shared(float* out, bool barrier) {
  MLLOSS_SHARED(float, shared, [256]);
  shared[threadIdx.x] = float(threadIdx.x);
  if (barrier) __syncwarp();
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

// An exchange of registers orders no memory.
__global__ void shuffle_for_a_barrier(float* out) {
  MLLOSS_SHARED(float, shared, [256]);
  shared[threadIdx.x] = float(threadIdx.x);
  const float zero = __shfl_xor_sync(kAll, 0.0f, 1);
  out[threadIdx.x] = shared[threadIdx.x ^ 1] + zero;
}

__global__ void divergent_shuffle(float* out) {
  float x = float(threadIdx.x);
  if (threadIdx.x % 32 < 20) x = __shfl_xor_sync(kAll, x, 1);
  out[threadIdx.x] = x;
}

__global__ void half_warp_shuffle(float* out, int distance) {
  float x = float(threadIdx.x);
  if (threadIdx.x % 32 < 16) {
    x = __shfl_xor_sync(0xffffu, x, distance);
  } else {
    x = float(threadIdx.x ^ 1);
  }
  out[threadIdx.x] = x;
}

// ---- bounds, alignment, fresh memory -------------------------------------------------------------

__global__ void read_vectors(const float* x, float* out, int offset, bool hinted) {
  const float4* vectors = reinterpret_cast<const float4*>(x + offset);
  const float4 v = hinted ? __ldg(vectors + threadIdx.x) : vectors[threadIdx.x];
  out[threadIdx.x] = v.x + v.y + v.z + v.w;
}

__global__ void shared_neighbour(float* out) {
  MLLOSS_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

template <class T>
__global__ void write_warp_slots(T* out, unsigned slots) {
  MLLOSS_SHARED(T, shared, [8]);
  if (threadIdx.x < slots) shared[threadIdx.x] = T(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x % 8];
}

__global__ void unwritten_shared(float* out) {
  MLLOSS_SHARED(float, shared, [64]);
  if (threadIdx.x < 63) shared[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x % 64];
}

__global__ void write_some(float* out, int count) {
  if (int(threadIdx.x) < count) out[threadIdx.x] = float(threadIdx.x);
}

__global__ void narrow_index(float* out, int rows, int labels) {
  const int elements = rows * labels;  // 2^31 of them do not fit
  if (threadIdx.x == 0) out[0] = float(elements);
}

// ---- between blocks ------------------------------------------------------------------------------

__global__ void count_blocks(float* out, bool atomic) {
  if (threadIdx.x != 0) return;
  if (atomic) {
    atomicAdd(out, 1.0f);
  } else {
    *out += 1.0f;
  }
}

// Rows of 6 in chunks of 4: the chunk in the middle belongs to two rows, and each may write its own lanes only.
__global__ void write_row(float* out, bool own_lanes) {
  const int begin = 6 * int(blockIdx.x), end = begin + 6, chunk = 4 * int(begin / 4 + threadIdx.x);
  for (int i = chunk; i < chunk + 4; ++i) {
    const bool mine = i >= begin && i < end;
    if (own_lanes ? mine : i < 12) out[i] = float(i);
  }
}

// Where fences stand around the atomic that counts blocks.
struct Fences {
  bool before, after;
};

// The last block to finish sums what all of them have left.
__global__ void last_block_sums(float* parts, unsigned* count, float* out, Fences fences) {
  MLLOSS_SHARED(bool, last, [1]);
  const float mine = block_sum(1.0f, true);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = mine;
    if (fences.before) __threadfence();
    last[0] = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
    if (fences.after) __threadfence();
  }
  __syncthreads();
  if (!last[0]) return;
  const float sum = block_sum(threadIdx.x < gridDim.x ? parts[threadIdx.x] : 0.0f, true);
  if (threadIdx.x == 0) *out = sum;
}

// ---- teams of blocks -----------------------------------------------------------------------------

// Sends a value and the turn that it belongs to. One word carries both, so that nothing has to be ordered with it.
__device__ void put_packet(uint64_t* to, unsigned turn, float x) {
  __atomic_store_n(to, uint64_t{turn} << 32 | __float_as_uint(x), __ATOMIC_RELAXED);
}

// Waits for the packet of a turn. With `any_turn` it takes whatever packet is there.
__device__ float wait_for_packet(const uint64_t* from, unsigned turn, bool any_turn = false) {
  for (;;) {
    const uint64_t packet = __atomic_load_n(from, __ATOMIC_RELAXED);
    const unsigned its_turn = unsigned(packet >> 32);
    if (any_turn ? its_turn != 0 : its_turn == turn) return __uint_as_float(unsigned(packet));
    cuemu::spin({"wait_for_packet", __FILE__, __LINE__});
  }
}

struct Team {
  unsigned size;      // counts the blocks that take a row together
  uint64_t* packets;  // has the shape [2][blocks], and is zero before and after a launch
  unsigned* left;     // counts the blocks that have left, and is zero before and after a launch
};

enum class Join { kCorrect, kAnyTurn, kOnePlace, kLeavesEarly, kCleansUpAlone };

// Sums up rows. A block sends its packet of the next turn only when it has all of this turn, so two places that
// alternate are enough: whoever has all packets of a turn may overwrite its own of the turn before.
__global__ void team_sums(float* sums, int rows, Team team, Join how) {
  MLLOSS_SHARED(float, received, [8]);
  MLLOSS_SHARED(bool, last, [1]);
  const unsigned rank = blockIdx.x % team.size, first = blockIdx.x - rank, step = gridDim.x / team.size;
  unsigned turn = 0;
  for (unsigned row = blockIdx.x / team.size; row < unsigned(rows); row += step) {
    const float mine = block_sum(float((row + 1) * (rank + 1)), true);
    ++turn;
    if (how == Join::kLeavesEarly && rank == 1 && turn == 2) return;
    uint64_t* const packets = team.packets + (how == Join::kOnePlace ? 0 : turn % 2) * gridDim.x + first;
    if (threadIdx.x == 0) put_packet(packets + rank, turn, mine);
    if (threadIdx.x < team.size) {
      received[threadIdx.x] = wait_for_packet(packets + threadIdx.x, turn, how == Join::kAnyTurn);
    }
    __syncthreads();
    if (rank == 0 && threadIdx.x == 0) {
      float sum = 0;
      for (unsigned peer = 0; peer < team.size; ++peer) sum += received[peer];
      sums[row] = sum;
    }
    __syncthreads();
  }
  // The last block to leave cleans up, as no other waits any more.
  if (how == Join::kCleansUpAlone) {
    if (threadIdx.x < 2) team.packets[threadIdx.x * gridDim.x + blockIdx.x] = 0;
    return;
  }
  if (threadIdx.x == 0) {
    __threadfence();
    last[0] = atomicInc(team.left, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last[0]) return;
  for (unsigned i = threadIdx.x; i < 2 * gridDim.x; i += blockDim.x) team.packets[i] = 0;
}

// Reads in block 1 what block 0 has written before it sent a packet. Only fences order the two; the packet does not.
__global__ void handed_over(float* out, float* held, uint64_t* packet, Fences fences) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    held[0] = 1.0f;
    if (fences.before) __threadfence();
    put_packet(packet, 1, 0.0f);
  } else {
    wait_for_packet(packet, 1);
    if (fences.after) __threadfence();
    out[0] = held[0];
  }
}

// Waits with a vote of the warp on whether to go on. The emulator must not take the votes for progress.
__global__ void wait_by_votes(float* out, uint64_t* packet, bool sent) {
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0 && sent) put_packet(packet, 1, 0.0f);
    return;
  }
  while (__any_sync(kAll, threadIdx.x == 7 && __atomic_load_n(packet, __ATOMIC_RELAXED) == 0)) {
    if (threadIdx.x == 7) cuemu::spin({"wait_by_votes", __FILE__, __LINE__});
  }
  out[threadIdx.x] = float(threadIdx.x);
}

// ---- running them --------------------------------------------------------------------------------

// The array has the exact size, so that AddressSanitizer sees the first byte beyond.
template <class T>
class Memory {
 public:
  explicit Memory(size_t count) : count_(count) { cudaMalloc(&data_, count * sizeof(T)); }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  operator T*() const { return data_; }
  Memory& zero() {
    std::memset(data_, 0, count_ * sizeof(T));
    return *this;
  }

  template <class F>
  int compare(F expected) const {
    for (size_t i = 0; i < count_; ++i) {
      const float want = float(expected(int(i)));
      if (data_[i] == want) continue;
      std::printf("WRONG: element %zu is %g, not %g\n", i, double(data_[i]), double(want));
      return 1;
    }
    return 0;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

struct Shape {
  dim3 grid;
  unsigned threads = 256;
  size_t shared_bytes = 0;
  bool cooperative = false;
};

template <class... P, class... A>
void launch(Shape shape, void (*kernel)(P...), A&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = shape.cooperative ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, P(arguments)...);
  if (error == cudaSuccess) return;
  std::printf("launch error %d\n", int(error));
  std::exit(3);
}

float itself(int i) { return float(i); }
float neighbour(int i) { return float(i ^ 1); }
float one(int) { return 1.0f; }

// A kernel that fills 256 floats with what `expected` says.
template <class F, class... P, class... A>
int fill(F expected, Shape shape, void (*kernel)(float*, P...), A... arguments) {
  Memory<float> out(256);
  launch(shape, kernel, out, arguments...);
  return out.compare(expected);
}

int two_sums_case(bool trailing) {
  Memory<float> out(1024);
  launch({4}, two_sums, out, trailing);
  return out.compare([](int) { return 256.0f + 255 * 128.0f; });
}

int read_vectors_case(size_t count, int offset, bool hinted) {
  Memory<float> x(count), out(256);
  launch({1}, read_vectors, x.zero(), out, offset, hinted);
  return out.compare([](int) { return 0.0f; });
}

int count_blocks_case(Shape shape, bool atomic) {
  Memory<float> out(1);
  launch(shape, count_blocks, out.zero(), atomic);
  return out.compare([](int) { return 8.0f; });
}

int write_row_case(bool own_lanes) {
  Memory<float> out(12);
  launch({2, 2}, write_row, out, own_lanes);
  return out.compare(itself);
}

int last_block_case(Fences fences) {
  Memory<float> parts(8), out(1);
  Memory<unsigned> count(1);
  launch({8}, last_block_sums, parts, count.zero(), out, fences);
  return out.compare([](int) { return 2048.0f; });
}

// Runs teams of three blocks. The second launch finds what the first has left in memory.
int team_sums_case(Shape shape, Join how) {
  constexpr int kRows = 7;
  const unsigned blocks = shape.grid.x;
  Memory<float> sums(kRows);
  Memory<uint64_t> packets(2 * blocks);
  Memory<unsigned> left(1);
  const Team team{3, packets.zero(), left.zero()};
  int wrong = 0;
  for (int repeat = 0; repeat < 2; ++repeat) {
    launch(shape, team_sums, sums, kRows, team, how);
    wrong |= sums.compare([&](int row) { return float(6 * (row + 1) * int(shape.threads)); });
  }
  const auto zero = [](int) { return 0; };
  return wrong | packets.compare(zero) | left.compare(zero);
}

int handed_over_case(Fences fences) {
  Memory<float> out(1), held(1);
  Memory<uint64_t> packet(1);
  launch(Shape{2, 32, 0, true}, handed_over, out, held, packet.zero(), fences);
  return out.compare(one);
}

int wait_by_votes_case(bool sent) {
  Memory<float> out(32);
  Memory<uint64_t> packet(1);
  launch(Shape{2, 32, 0, true}, wait_by_votes, out, packet.zero(), sent);
  return out.compare(itself);
}

int narrow_index_case(int rows) {
  Memory<float> out(1);
  launch({1}, narrow_index, out, rows, 1 << 16);
  return 0;  // a wrapped product is as good as any: only the overflow itself shows
}

struct Case {
  const char* name;
  const char* caught_by;  // "" for a correct kernel
  int (*run)();
};

const Shape kOne{1}, kShared{1, 256, 256 * sizeof(float)};
// The device that main() sets up has room for eight blocks.
const Shape kTeams{6, 64, 0, true}, kTeamsApart{6, 64}, kTooManyTeams{9, 64, 0, true};

const Case kCases[] = {
    {"two_sums", "", [] { return two_sums_case(true); }},
    {"two_sums_without_trailing_barrier", "races", [] { return two_sums_case(false); }},
    {"held_by_another", "", [] { return fill([](int i) { return i ^ 32; }, kShared, held_by_another, true); }},
    {"held_by_another_without_barrier", "races",
     [] { return fill([](int i) { return i ^ 32; }, kShared, held_by_another, false); }},
    {"early_return", "plain", [] { return fill(itself, kOne, early_return, 250); }},
    {"no_early_return", "", [] { return fill(itself, kOne, early_return, 256); }},
    {"two_barriers_at_once", "plain", [] { return fill(itself, kOne, two_barriers_at_once); }},

    {"neighbour_in_shared", "", [] { return fill(neighbour, kOne, neighbour_in_shared, true); }},
    {"neighbour_in_shared_without_syncwarp", "races", [] { return fill(neighbour, kOne, neighbour_in_shared, false); }},
    {"shuffle_for_a_barrier", "races", [] { return fill(neighbour, kOne, shuffle_for_a_barrier); }},
    {"divergent_shuffle", "plain", [] { return fill(neighbour, kOne, divergent_shuffle); }},
    {"half_warp_shuffle", "", [] { return fill(neighbour, kOne, half_warp_shuffle, 1); }},
    {"half_warp_shuffle_from_outside", "plain", [] { return fill(neighbour, kOne, half_warp_shuffle, 16); }},

    {"read_vectors", "", [] { return read_vectors_case(1024, 0, true); }},
    {"read_vectors_misaligned", "sanitized", [] { return read_vectors_case(1025, 1, false); }},
    {"read_vectors_misaligned_hinted", "plain", [] { return read_vectors_case(1025, 1, true); }},
    {"read_vectors_past_the_end", "sanitized", [] { return read_vectors_case(1023, 0, false); }},
    {"shared_neighbour", "", [] { return fill(one, kShared, shared_neighbour); }},
    {"shared_neighbour_past_the_end", "sanitized",
     [] { return fill(one, Shape{1, 256, 255 * sizeof(float)}, shared_neighbour); }},
    {"write_warp_slots", "", [] { return fill([](int i) { return i % 8; }, kOne, write_warp_slots<float>, 8u); }},
    {"write_warp_slots_past_the_end", "sanitized",
     [] { return fill([](int i) { return i % 8; }, kOne, write_warp_slots<float>, 9u); }},
    {"unwritten_shared", "plain", [] { return fill(one, kOne, unwritten_shared); }},
    {"write_all", "", [] { return fill(itself, kOne, write_some, 256); }},
    {"write_all_but_one", "plain", [] { return fill(itself, kOne, write_some, 255); }},
    {"index_of_32_bits", "", [] { return narrow_index_case(1 << 14); }},
    {"index_of_32_bits_overflows", "sanitized", [] { return narrow_index_case(1 << 15); }},

    {"count_blocks", "", [] { return count_blocks_case({8}, true); }},
    {"count_blocks_without_atomic", "races", [] { return count_blocks_case({8}, false); }},
    {"write_row", "", [] { return write_row_case(true); }},
    {"write_row_and_the_next", "races", [] { return write_row_case(false); }},
    {"last_block", "", [] { return last_block_case({true, true}); }},
    {"last_block_without_fences", "races", [] { return last_block_case({false, false}); }},
    {"last_block_without_fence_before", "races", [] { return last_block_case({false, true}); }},
    {"last_block_without_fence_after", "races", [] { return last_block_case({true, false}); }},

    {"team_sums", "", [] { return team_sums_case(kTeams, Join::kCorrect); }},
    {"team_sums_of_any_turn", "plain:lifo plain:random", [] { return team_sums_case(kTeams, Join::kAnyTurn); }},
    {"team_sums_in_one_place", "plain:lifo", [] { return team_sums_case(kTeams, Join::kOnePlace); }},
    {"team_sums_without_a_block", "plain plain:lifo plain:random",
     [] { return team_sums_case(kTeams, Join::kLeavesEarly); }},
    {"team_sums_cleaned_up_early", "races plain:lifo", [] { return team_sums_case(kTeams, Join::kCleansUpAlone); }},
    {"team_sums_not_cooperative", "plain plain:lifo plain:random",
     [] { return team_sums_case(kTeamsApart, Join::kCorrect); }},
    {"team_sums_too_many_blocks", "plain", [] { return team_sums_case(kTooManyTeams, Join::kCorrect); }},
    {"handed_over", "", [] { return handed_over_case({true, true}); }},
    {"handed_over_without_fences", "races", [] { return handed_over_case({false, false}); }},
    {"handed_over_without_fence_before", "races", [] { return handed_over_case({false, true}); }},
    {"handed_over_without_fence_after", "races", [] { return handed_over_case({true, false}); }},
    {"wait_by_votes", "", [] { return wait_by_votes_case(true); }},
    {"wait_by_votes_without_a_packet", "plain plain:lifo plain:random", [] { return wait_by_votes_case(false); }},

    {"too_much_shared_memory", "plain", [] { return fill(one, Shape{1, 256, 64 << 10}, shared_neighbour); }},
    {"grid_too_tall", "plain", [] { return count_blocks_case({dim3(1, 70000)}, true); }},
};

}  // namespace

int main(int count, char** arguments) {
  const char* wanted = count == 2 ? arguments[1] : "--list";
  const bool list = std::strcmp(wanted, "--list") == 0;
  setenv("CUEMU_SMS", "4", 1);
  setenv("CUEMU_BLOCKS", "2", 1);
  for (const Case& each : kCases) {
    if (list) {
      std::printf("%s %s\n", each.name, each.caught_by);
    } else if (std::strcmp(wanted, each.name) == 0) {
      const int result = each.run();
      if (result == 0) std::puts("ok");
      return result;
    }
  }
  return list ? 0 : 9;
}
