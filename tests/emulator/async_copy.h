// cp.async: a copy lands when its thread waits for its group, and not before; until then the
// destination is NaN, and the source may still change.
#pragma once
#include "exchange.h"

namespace cuemu {
inline void copy_async(void* to, const void* from, unsigned bytes, CUEMU_AT) {
  const Site site = CUEMU_SITE("cp.async");
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
    fail("misaligned access", site);
  // In sight of the race detector: whoever still reads what was there.
  for (unsigned i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(to)[i] = 0xFF;
  Quiet q;
  cur->open_copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes});
}
inline void commit_copies() {
  Quiet q;
  cur->copies.push_back(std::exchange(cur->open_copies, {}));
}
inline void wait_copies(size_t pending) {
  while (true) {
    std::vector<Copy> group;
    {
      Quiet q;
      if (cur->copies.size() <= pending) return;
      group = std::move(cur->copies.front());
      cur->copies.pop_front();
    }
    // Byte by byte, in sight of the sanitizers; the bookkeeping is not.
    for (const Copy& copy : group)
      for (unsigned i = 0; i < copy.bytes; ++i) copy.to[i] = copy.from[i];
  }
}
}  // namespace cuemu
