// Sums and maxima over a team: the lanes of a warp, the warps of a block, the blocks of a team. The order is always the
// same, so that all blocks of a team get the same bits.
#pragma once

#include "arrival.cuh"

namespace mlloss {
namespace cuda {

// Joins all threads of a block with one barrier; only warp 0 gets the result. Two calls need a barrier of the block
// between them.
template <class How, int N>
MLLOSS_DEVICE Array<float, N> join_block(Array<float, N> x, float neutral) {
  constexpr int kWarps = kTeamThreads / kWarpLanes;
  MLLOSS_SHARED(float, parts, [N][kWarps]);
  const int warp = this_warp(), lane = this_lane();
  x = join_lanes<How, kWarpLanes>(x);
  if (lane == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) parts[n][warp] = x[n];
  }
  __syncthreads();
  if (warp != 0) return x;
  const bool there = lane % kWarps < block_warps();
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] = there ? parts[n][lane % kWarps] : neutral;
  return join_lanes<How, kWarps>(x);
}

// A packet is one 64-bit word with a value and the number of its turn. Relaxed accesses suffice, because no other
// access has to be ordered with it; a flag beside the value needs a fence and a second access to L2.
MLLOSS_DEVICE uint64_t make_packet(unsigned turn, float x) { return uint64_t{turn} << 32 | bit_cast<uint32_t>(x); }

#ifdef __CUDA_ARCH__
MLLOSS_DEVICE void put_packet(uint64_t* to, uint64_t x) {
  asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(to), "l"(x) : "memory");
}
MLLOSS_DEVICE uint64_t get_packet(const uint64_t* from) {
  uint64_t x;
  asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(x) : "l"(from) : "memory");
  return x;
}
#else
MLLOSS_DEVICE void put_packet(uint64_t* to, uint64_t x) { __atomic_store_n(to, x, __ATOMIC_RELAXED); }
MLLOSS_DEVICE uint64_t get_packet(const uint64_t* from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }
#endif

// Lets other blocks run, which only the emulator needs.
MLLOSS_DEVICE void wait_a_little(MLLOSS_CALLER) {
#ifdef CUEMU
  cuemu::spin({"wait for packets", file_, line_});
#endif
}

// The parameters of a launch that concern its teams. A block has at most `span` chunks of a row, and a warp
// `warp_span`.
struct TeamLaunch {
  int size;  // blocks of a team
  int span, warp_span;
  uint64_t* packets;  // [2][blocks][statistics], zeros before and after the launch; null if size is 1
  unsigned* counter;  // 0 before and after the launch
};

// The blocks of a grid that process a row together. They run at the same time, because the launch is cooperative.
// kPackets is the largest number of values that a block sends in a turn.
template <int kPackets>
class Team {
 public:
  MLLOSS_DEVICE explicit Team(const TeamLaunch& launch)
      : launch_(launch), rank_(static_cast<int>(blockIdx.x % static_cast<unsigned>(launch.size))) {}

  MLLOSS_DEVICE int rank() const { return rank_; }
  MLLOSS_DEVICE int first_row() const { return static_cast<int>(blockIdx.x / static_cast<unsigned>(launch_.size)); }
  MLLOSS_DEVICE int row_step() const { return static_cast<int>(gridDim.x / static_cast<unsigned>(launch_.size)); }

  // Joins the values of all blocks of the team; warp 0 of each block calls this. Turns alternate between two places. A
  // block sends its packet of a turn only when it has all packets of the turn before. So once a block has all packets
  // of a turn, every block has read those of the turn before, and their place is free.
  template <class How, int N>
  MLLOSS_DEVICE Array<float, N> join(const Array<float, N>& mine, float neutral) {
    static_assert(N <= kPackets, "a turn has more values than places");
    if (launch_.size == 1) return mine;
    const unsigned place = (++turn_ & 1) * gridDim.x + blockIdx.x - static_cast<unsigned>(rank_);
    uint64_t* all = launch_.packets + int64_t{place} * kPackets;
    if (threadIdx.x == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n) put_packet(all + rank_ * kPackets + n, make_packet(turn_, mine[n]));
    }
    return collect<How, N>(all, neutral);
  }

  // Ends the block's part. The last block sets the packets to 0; no other block waits for one then.
  MLLOSS_DEVICE void leave() const {
    if (launch_.size == 1) return;
    __syncthreads();
    if (!last_to_arrive(launch_.counter, gridDim.x)) return;
    for (unsigned i = threadIdx.x; i < 2 * gridDim.x * kPackets; i += blockDim.x) launch_.packets[i] = 0;
  }

 private:
  const TeamLaunch& launch_;
  const int rank_;
  unsigned turn_ = 0;

  // Waits for all packets of this turn. A lane reads those of every 32nd block, from two blocks at a time.
  template <class How, int N>
  MLLOSS_DEVICE Array<float, N> collect(const uint64_t* from, float neutral) const {
    constexpr int kAtOnce = 2;
    Array<float, N> all;
#pragma unroll
    for (int n = 0; n < N; ++n) all[n] = neutral;
#pragma unroll 1
    for (int peer = static_cast<int>(threadIdx.x); peer < launch_.size; peer += kAtOnce * kWarpLanes) {
      uint64_t got[kAtOnce][N];
      for (bool missing = true; missing;) {
        missing = false;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int block = peer + j * kWarpLanes;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            got[j][n] = block < launch_.size ? get_packet(from + block * kPackets + n) : make_packet(turn_, neutral);
            missing |= static_cast<unsigned>(got[j][n] >> 32) != turn_;
          }
        }
        if (missing) wait_a_little();
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
        for (int n = 0; n < N; ++n) all[n] = How::join(all[n], bit_cast<float>(static_cast<uint32_t>(got[j][n])));
      }
    }
    return join_lanes<How, kWarpLanes>(all);
  }
};

}  // namespace cuda
}  // namespace mlloss
