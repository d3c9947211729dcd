// cp.async: a copy lands when its thread waits for its group, and not before; until then the
// destination is NaN, and the source may still change.
#pragma once
#include "exchange.h"

namespace cuemu {
inline void copy_async(void* to, const void* from, unsigned bytes, CUEMU_AT) {
  Quiet q;
  const Site site = CUEMU_SITE("cp.async");
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
    fail("misaligned access", site);
  std::memset(to, 0xFF, bytes);
  cur->open_copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes});
}
inline void commit_copies() {
  Quiet q;
  cur->copies.push_back(std::exchange(cur->open_copies, {}));
}
inline void wait_copies(size_t pending) {
  while (cur->copies.size() > pending) {
    // Byte by byte, in sight of the sanitizers.
    for (const Copy& copy : cur->copies.front())
      for (unsigned i = 0; i < copy.bytes; ++i) copy.to[i] = copy.from[i];
    cur->copies.pop_front();
  }
}
}  // namespace cuemu
