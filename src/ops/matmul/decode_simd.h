// Packed weights to float vectors in registers, over the Vec of the file's instruction set.
// Why these sequences: docs/kernels/matmul.md.
#pragma once

#include <cstdint>

#include "ops/matmul/vec.h"

namespace cachalot::ops {
namespace {

// Of pairs of bf16 (input 2i in the low half of a lane, 2i+1 in the high half) the floats that the
// chain takes first and second: bf16 math takes the odd input first.
template <bool kOddFirst>
inline Vec::F one_of_pairs(Vec::I pairs) {
  return kOddFirst ? Vec::as_float(Vec::bit_and(pairs, Vec::splat32(0xFFFF0000)))
                   : Vec::as_float(Vec::low_half_up(pairs));
}
template <bool kOddFirst>
inline Vec::F first_of_pairs(Vec::I pairs) {
  return one_of_pairs<kOddFirst>(pairs);
}
template <bool kOddFirst>
inline Vec::F second_of_pairs(Vec::I pairs) {
  return one_of_pairs<!kOddFirst>(pairs);
}

// Of four e4m3 codes per lane those of the odd inputs, or of the even ones: in the halves of a lane
// as bf16 values times 2^-120, exact even for e4m3's subnormals, which become bf16's. NaN codes
// come out as 480; kNanCodes adds the steps that make them NaN.
template <bool kOdd, bool kNanCodes>
inline Vec::I fp8_words(Vec::I codes) {
  const Vec::I high = kOdd ? codes : Vec::shift_left_16(codes, 8);
  const Vec::I words = Vec::bit_and(Vec::shift_right_signed_16(high, 4), Vec::splat16(0x87F0));
  if constexpr (!kNanCodes) return words;
  const Vec::I nan = Vec::splat16(0x07F0);
  return Vec::bit_or(words, Vec::all_ones_where_equal_16(Vec::bit_and(words, nan), nan));
}
// One half of the lanes as the values themselves. That takes denormal inputs as they are: never run
// it with them flushed.
template <bool kHigh>
inline Vec::F fp8_floats(Vec::I words) {
  const Vec::I half =
      kHigh ? Vec::bit_and(words, Vec::splat32(0xFFFF0000)) : Vec::low_half_up(words);
  return Vec::mul(Vec::as_float(half), Vec::as_float(Vec::splat32(uint32_t{127 + 120} << 23)));
}

template <bool kOddFirst, bool kNanCodes>
inline void decode_fp8(Vec::I codes, Vec::F out[4]) {
  const Vec::I first = fp8_words<kOddFirst, kNanCodes>(codes);
  const Vec::I second = fp8_words<!kOddFirst, kNanCodes>(codes);
  out[0] = fp8_floats<false>(first);
  out[1] = fp8_floats<false>(second);
  out[2] = fp8_floats<true>(first);
  out[3] = fp8_floats<true>(second);
}

// The bytes of bf16(e2m1 code), by code.
alignas(16) constexpr uint8_t kFp4High[16] = {0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                                              0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0};
alignas(16) constexpr uint8_t kFp4Low[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0,
                                             0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0};

// The low nibbles of kLanes / 8 octets (packed_weight.h) as vectors of bf16 pairs: inputs 0, 1 and
// inputs 2, 3. The high nibbles, shifted down, give inputs 4 to 7.
inline void decode_fp4_pairs(Vec::I codes, Vec::I high_table, Vec::I low_table, Vec::I pairs[2]) {
  const Vec::I idx = Vec::bit_and(codes, Vec::splat8(0x0F));
  const Vec::I high = Vec::lookup(high_table, idx), low = Vec::lookup(low_table, idx);
  pairs[0] = Vec::unpack_low_8(low, high);
  pairs[1] = Vec::unpack_high_8(low, high);
}

// e8m0 bytes, one per lane: the exponent field, with byte 0 as the subnormal 2^-127.
inline Vec::F decode_e8m0(const uint8_t* bytes) {
  return Vec::as_float(
      Vec::max_u32(Vec::shift_left_32(Vec::load_bytes_as_32(bytes), 23), Vec::splat32(0x00400000)));
}

}  // namespace
}  // namespace cachalot::ops
