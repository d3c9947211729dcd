// Copies from global to shared memory without registers (cp.async, sm_80 and later). A thread may have many of them in
// flight, and other threads see the data only after a barrier.
#pragma once

#include "portability.cuh"

namespace mlloss {
namespace cuda {

#ifdef CUEMU

using SharedAddress = unsigned char*;
MLLOSS_DEVICE SharedAddress shared_address(void* shared) { return static_cast<SharedAddress>(shared); }
template <class Word>
MLLOSS_DEVICE Word load_shared(SharedAddress from) {
  return *reinterpret_cast<const Word*>(from);
}
MLLOSS_DEVICE void store_shared(SharedAddress to, uint4 x) { *reinterpret_cast<uint4*>(to) = x; }

template <int kBytes>
MLLOSS_DEVICE void copy_async(SharedAddress shared, const void* global) {
  cuemu::copy_async(shared, global, kBytes);
}
MLLOSS_DEVICE void commit_copies() { cuemu::commit_copies(); }
template <int kGroups>
MLLOSS_DEVICE void wait_copies() {
  cuemu::wait_copies(kGroups);
}

#else

// A 32-bit address in a register. From a pointer the compiler would compute the address again at every use.
using SharedAddress = uint32_t;
MLLOSS_DEVICE SharedAddress shared_address(void* shared) {
  uint32_t address;
  asm volatile("mov.u32 %0, %1;" : "=r"(address) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))));
  return address;
}

template <class Word>
MLLOSS_DEVICE Word load_shared(SharedAddress from) {
  Word x;
  if constexpr (sizeof(Word) == 16) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(from)
                 : "memory");
  } else if constexpr (sizeof(Word) == 8) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(from) : "memory");
  } else {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
  }
  return x;
}

MLLOSS_DEVICE void store_shared(SharedAddress to, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// Copies of 16 bytes also bypass the first-level cache, because no data is read from it twice.
template <int kBytes>
MLLOSS_DEVICE void copy_async(SharedAddress shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(global), "n"(kBytes) : "memory");
  }
}

// Forms a group of the copies that this thread has started since the last commit.
MLLOSS_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kGroups of this thread's latest groups are still in flight.
template <int kGroups>
MLLOSS_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#endif

}  // namespace cuda
}  // namespace mlloss
