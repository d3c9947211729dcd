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
  cur->copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, cur->groups});
}
inline void commit_copies() { ++cur->groups; }
inline void wait_copies(unsigned pending) {
  std::vector<Copy>& copies = cur->copies;
  size_t& landed = cur->landed_copies;
  while (landed < copies.size() && copies[landed].group + pending < cur->groups) {
    const Copy& copy = copies[landed++];
    // Byte by byte, in sight of the sanitizers.
    for (unsigned i = 0; i < copy.bytes; ++i) copy.to[i] = copy.from[i];
  }
  if (landed == copies.size()) {
    copies.clear();
    landed = 0;
  }
}
}  // namespace cuemu
