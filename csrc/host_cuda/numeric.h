// The half formats and tf32, on bits, as the GPU's conversions round.
#pragma once

#include <cstdint>
#include <cstring>

namespace host_cuda {

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr uint32_t kFloatInfinity = 0x7f800000;

inline float float_from_bfloat16(uint16_t bits) {
  return float_from_bits(static_cast<uint32_t>(bits) << 16);
}

// To nearest even; every NaN becomes the GPU's own.
inline uint16_t bfloat16_from_float(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) > kFloatInfinity) {
    return 0x7fff;
  }
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Without a branch, so that loops over it become vector code.
inline float float_from_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  // Read as a float the exponent is short by the difference of the two biases, 112; multiplying also makes subnormal
  // halves normal.
  const uint32_t finite = float_bits(float_from_bits(magnitude) * 0x1p112f);
  return float_from_bits(sign | ((bits & 0x7c00) == 0x7c00 ? magnitude | kFloatInfinity : finite));
}

// To nearest even, to infinity from 65520 on; every NaN becomes the GPU's own.
inline uint16_t half_from_float(float value) {
  const uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > kFloatInfinity) {
    return 0x7fff;
  }
  if (magnitude >= 0x477ff000) {  // 65520
    return sign | 0x7c00;
  }
  if (magnitude < 0x38800000) {  // 2^-14: below it halves are multiples of 2^-24, the spacing of floats just under 1
    const uint32_t shifted = float_bits(float_from_bits(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (shifted - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

// To nearest, ties away from zero: cvt.rna.tf32.f32.
inline float round_to_tf32(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) >= kFloatInfinity) {
    return value;
  }
  return float_from_bits((bits + 0x1000) & ~uint32_t{0x1fff});
}

// What the matrix units make of a float that was not rounded: they ignore the low bits.
inline float cut_to_tf32(float value) {
  return float_from_bits(float_bits(value) & ~uint32_t{0x1fff});
}

}  // namespace host_cuda
