// Loads and stores of low-precision floats in integer arithmetic, so that every compiler vectorises them for every
// instruction set.
#pragma once

#include <type_traits>

#include "../core/numerics.h"
#include "../core/params.h"

namespace mlloss {
inline namespace MLLOSS_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class T>
MLLOSS_HD T widen(T x) {
  return x;
}
MLLOSS_HD float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
MLLOSS_HD float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // The multiplication moves the exponent's bias and makes subnormals normal.
  const float finite = bit_cast<float>(magnitude) * 5.192296858534828e33f;  // 2^112
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t bits = magnitude >= 0x0f800000u ? special : bit_cast<uint32_t>(finite);
  return bit_cast<float>(bits | sign);
}

// Returns the bits of a number as an integer, which is 0 for +0 only.
template <class T>
MLLOSS_HD T bits_of(T x) {
  return x;
}
MLLOSS_HD uint16_t bits_of(BFloat16 x) { return x.bits; }
MLLOSS_HD uint16_t bits_of(Half x) { return x.bits; }
MLLOSS_HD uint32_t bits_of(float x) { return bit_cast<uint32_t>(x); }
MLLOSS_HD uint64_t bits_of(double x) { return bit_cast<uint64_t>(x); }

template <class Out>
struct Narrow;

template <>
struct Narrow<BFloat16> {
  static MLLOSS_HD BFloat16 from(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0u)};
  }
};
template <>
struct Narrow<Half> {
  static MLLOSS_HD Half from(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14, adding 0.5 leaves the rounded bits of the subnormal at the end of the mantissa.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t bounded = magnitude >= 0x477ff000u ? 0x7c00u : finite;  // 65520 rounds to inf
    const uint32_t result = magnitude > 0x7f800000u ? 0x7e00u : bounded;
    return {static_cast<uint16_t>(result | sign)};
  }
};

template <class Out, class T>
MLLOSS_HD Out narrow(T x) {
  if constexpr (sizeof(Out) == 2)
    return Narrow<Out>::from(static_cast<float>(x));
  else
    return static_cast<Out>(x);
}

// Calls f with a null pointer to the C++ type that stores a floating dtype.
template <class F>
MLLOSS_HD void with_floating(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat:
      return f(static_cast<float*>(nullptr));
    case DType::kBFloat16:
      return f(static_cast<BFloat16*>(nullptr));
    case DType::kHalf:
      return f(static_cast<Half*>(nullptr));
    default:
      return f(static_cast<double*>(nullptr));
  }
}

template <class F>
MLLOSS_HD void with_integer(DType dtype, F f) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
      return f(static_cast<uint8_t*>(nullptr));
    case DType::kInt8:
      return f(static_cast<int8_t*>(nullptr));
    case DType::kInt16:
      return f(static_cast<int16_t*>(nullptr));
    case DType::kInt32:
      return f(static_cast<int32_t*>(nullptr));
    default:
      return f(static_cast<int64_t*>(nullptr));
  }
}

MLLOSS_HD bool is_floating(DType dtype) { return dtype >= DType::kHalf; }

}  // namespace MLLOSS_ISA
}  // namespace mlloss
