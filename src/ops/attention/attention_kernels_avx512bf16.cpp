// bf16 math with vdpbf16ps: keys, query and p as pairs of bf16. What is not a product is the
// AVX-512 text.
// GCC 12 takes the undefined pass-through operand of its own unmasked intrinsics for an
// uninitialised variable.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include "ops/attention/vector_avx512.h"
//
#include "ops/attention/attention_kernels_body.h"
#include "ops/attention/pair_tile_avx512bf16.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kChannelLanes = 32;  // a register of bf16
constexpr int64_t kPairBlock = 64;     // pairs of channels taken at a time: a panel of 16 KiB

float e8m0_scale(std::byte scale) {
  const auto byte = static_cast<uint32_t>(scale);
  if (byte == 255) return __builtin_nanf("");
  return __builtin_bit_cast(float, byte == 0 ? 0x00400000u : byte << 23);
}

alignas(64) constexpr uint16_t kUpperHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                   23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                   45, 47, 49, 51, 53, 55, 57, 59, 61, 63};

// 32 e4m3 codes times their scale, as ops/quant/row_codec.h's decoder gives them, and of that the
// upper halves.
__m512i decode_codes(__m256i codes, __m512 scale) {
  const __m512i wide = _mm512_cvtepu8_epi16(codes);
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(0x80)), 8);
  __m512i half = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(0x7F)), 7);
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(half, _mm512_set1_epi16(0x7F << 7));
  half = _mm512_or_si512(half, _mm512_maskz_set1_epi16(nan, 0x7E00));
  half = _mm512_or_si512(half, sign);
  const __m512 unit = _mm512_set1_ps(256.0f);
  const __m512 low =
      _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), unit), scale);
  const __m512 high = _mm512_mul_ps(
      _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), unit), scale);
  const __m512i upper = _mm512_load_si512(kUpperHalves);
  return _mm512_permutex2var_epi16(_mm512_castps_si512(low), upper, _mm512_castps_si512(high));
}

void decode_key(tensor::KvFormat format, const std::byte* data, const std::byte* scale,
                int64_t head_dim, int64_t rope_dim, int64_t padded_dim, std::byte* row) {
  const auto mask_of = [](int64_t n) -> __mmask32 { return n >= 32 ? ~0u : (1u << n) - 1; };
  if (format == tensor::KvFormat::f32) {
    narrow_row(reinterpret_cast<const float*>(data), head_dim, row);
  } else {
    const int64_t num_codes = format == tensor::KvFormat::fp8 ? head_dim - rope_dim : 0;
    for (int64_t i = 0; i < num_codes; i += 32) {
      const __mmask32 mask = mask_of(num_codes - i);
      const __m256i codes = _mm256_maskz_loadu_epi8(mask, data + i);
      _mm512_mask_storeu_epi16(row + 2 * i, mask,
                               decode_codes(codes, _mm512_set1_ps(e8m0_scale(scale[i / 64]))));
    }
    for (int64_t i = num_codes; i < head_dim; i += 32) {
      const __mmask32 mask = mask_of(head_dim - i);
      _mm512_mask_storeu_epi16(
          row + 2 * i, mask,
          _mm512_maskz_loadu_epi16(mask, data + num_codes + 2 * (i - num_codes)));
    }
  }
  for (int64_t i = head_dim; i < padded_dim; i += 32)
    _mm512_mask_storeu_epi16(row + 2 * i, mask_of(padded_dim - i), _mm512_setzero_si512());
}

// As the float form, [pair][lanes of the block]; the rows of bf16 lie in the unused half meanwhile.
template <int64_t kLanes>
void prepare_pairs(const float* q, int64_t heads, int64_t dim, float* prepared) {
  const int64_t head_lanes = (heads + kLanes - 1) / kLanes * kLanes;
  const int64_t num_pairs = (dim + 1) / 2;
  float* rows = prepared + head_lanes * num_pairs;
  for (int64_t h = 0; h < heads; ++h) narrow_row(q + h * dim, dim, rows + h * num_pairs);
  for (int64_t begin = 0; begin < head_lanes; begin += kTileLanes) {
    const int64_t lanes = block_lanes(head_lanes, begin);
    const int64_t n = heads - begin < lanes ? heads - begin : lanes;
    transpose(rows + begin * num_pairs, num_pairs, n, num_pairs, lanes,
              prepared + begin * num_pairs, lanes);
  }
}

template <int kRegs>
void score_block(const float* panel, const std::byte* const* keys, int64_t n, int64_t first_pair,
                 int64_t num_pairs, float* s, int64_t head_lanes) {
  pair_rows<kRegs>(
      n, num_pairs,
      [=](int64_t r, int64_t i)
          __attribute__((always_inline)) { return load_pair(keys[r] + (first_pair + i) * 4); },
      [=](int64_t i, __m512i * regs) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int v = 0; v < kRegs; ++v) {
          regs[v] = _mm512_loadu_si512(panel + (i * kRegs + v) * 16);
        }
      },
      s, head_lanes, first_pair > 0);
}

void score_pairs(const float* prepared_q, int64_t head_lanes, int64_t dim,
                 const std::byte* const* keys, int64_t n, float scale, bool, float* s, float* max) {
  const int64_t all_pairs = (dim + 1) / 2;
  for (int64_t i = 0; i < all_pairs; i += kPairBlock) {
    const int64_t num_pairs = all_pairs - i < kPairBlock ? all_pairs - i : kPairBlock;
    for (int64_t begin = 0; begin < head_lanes; begin += kTileLanes) {
      const int64_t lanes = block_lanes(head_lanes, begin);
      const float* panel = prepared_q + begin * all_pairs + i * lanes;
      float* out = s + begin;
      switch (lanes / 16) {
        case 1: score_block<1>(panel, keys, n, i, num_pairs, out, head_lanes); break;
        case 2: score_block<2>(panel, keys, n, i, num_pairs, out, head_lanes); break;
        case 3: score_block<3>(panel, keys, n, i, num_pairs, out, head_lanes); break;
        default: score_block<4>(panel, keys, n, i, num_pairs, out, head_lanes);
      }
    }
  }
  scale_scores(head_lanes, n, scale, s, max);
}

// Pairs of p replace the scores of the even key of each pair; an odd last key is paired with zero.
void weigh_pairs(float* s, int64_t head_lanes, int64_t n, int64_t begin, int64_t end,
                 const float* max, bool, float* z) {
  for (int64_t lane = begin; lane < end; lane += Vec::kLanes) {
    const Vec::Reg m = Vec::load(max + lane);
    Vec::Reg sum = Vec::load(z + lane);
    for (int64_t i = 0; i < n; i += 2) {
      float* const at = s + i * head_lanes + lane;
      const Vec::Reg low = Vec::exp(Vec::sub(Vec::load(at), m));
      sum = Vec::add(sum, low);
      __m512i pair = _mm512_srli_epi32(_mm512_castps_si512(Vec::round_bf16(low)), 16);
      if (i + 1 < n) {
        const Vec::Reg high = Vec::exp(Vec::sub(Vec::load(at + head_lanes), m));
        sum = Vec::add(sum, high);
        pair = _mm512_or_si512(pair, _mm512_castps_si512(Vec::round_bf16(high)));
      }
      _mm512_storeu_si512(at, pair);
    }
    Vec::store(z + lane, sum);
  }
}

// Two neighbouring keys interleave into pairs of a channel by unpacking, which works within 128
// bits: sums stand in the order that it leaves (channels 0..3, 8..11, 16..19, 24..27 of each 32,
// then the others) until divide_pairs().
template <int kRegs>
void value_block(const float* p, int64_t head_lanes, int64_t num_heads,
                 const std::byte* const* keys, int64_t n, int64_t channel, bool accumulate,
                 float* sums, int64_t sums_stride) {
  pair_rows<kRegs>(
      num_heads, (n + 1) / 2,
      [=](int64_t r, int64_t i)
          __attribute__((always_inline)) { return load_pair(p + 2 * i * head_lanes + r); },
      [=](int64_t i, __m512i * regs) __attribute__((always_inline)) {
        const std::byte* even = keys[2 * i] + channel * 2;
        const bool paired = 2 * i + 1 < n;
#pragma GCC unroll 8
        for (int v = 0; v < kRegs; v += 2) {
          const __m512i low = _mm512_loadu_si512(even + v * 32);
          const __m512i high = paired ? _mm512_loadu_si512(keys[2 * i + 1] + channel * 2 + v * 32)
                                      : _mm512_setzero_si512();
          regs[v] = _mm512_unpacklo_epi16(low, high);
          regs[v + 1] = _mm512_unpackhi_epi16(low, high);
        }
      },
      sums, sums_stride, accumulate);
}

void add_pair_values(const float* p, int64_t head_lanes, int64_t head_begin, int64_t head_end,
                     const std::byte* const* keys, int64_t n, int64_t begin, int64_t end, bool,
                     bool accumulate, float* sums, int64_t sums_stride) {
  float* const first = sums + head_begin * sums_stride;
  for (int64_t channel = begin; channel < end;) {
    if (end - channel >= 2 * kChannelLanes) {
      value_block<4>(p + head_begin, head_lanes, head_end - head_begin, keys, n, channel,
                     accumulate, first + channel, sums_stride);
      channel += 2 * kChannelLanes;
    } else {
      value_block<2>(p + head_begin, head_lanes, head_end - head_begin, keys, n, channel,
                     accumulate, first + channel, sums_stride);
      channel += kChannelLanes;
    }
  }
}

void divide_pairs(const float* sums, float z, int64_t n, bool, float* out) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second =
      _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  const Vec::Reg divisor = Vec::set1(z);
  for (int64_t k = 0; k < n; k += kChannelLanes) {
    const Vec::Reg low = Vec::round_bf16(Vec::div(Vec::load(sums + k), divisor));
    const Vec::Reg high = Vec::round_bf16(Vec::div(Vec::load(sums + k + 16), divisor));
    const int64_t left = n - k;
    const uint32_t mask = left >= 32 ? ~0u : (1u << left) - 1;
    _mm512_mask_storeu_ps(out + k, static_cast<__mmask16>(mask),
                          _mm512_permutex2var_ps(low, first, high));
    _mm512_mask_storeu_ps(out + k + 16, static_cast<__mmask16>(mask >> 16),
                          _mm512_permutex2var_ps(low, second, high));
  }
}

// Up to eight heads, one a lane of half a vector.
constexpr int64_t kNarrowLanes = 8;
constexpr int kNarrowRows = 12;  // two products a cycle, six cycles late

template <int kRows>
void narrow_score_rows(const float* panel, const std::byte* const* keys, int64_t first_pair,
                       int64_t num_pairs, float* s) {
  __m256 acc[kRows];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
    acc[r] = first_pair > 0 ? _mm256_loadu_ps(s + r * kNarrowLanes) : _mm256_setzero_ps();
  for (int64_t i = 0; i < num_pairs; ++i) {
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + i * 8));
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m256i x =
          _mm256_set1_epi32(static_cast<int>(load_pair(keys[r] + (first_pair + i) * 4)));
      acc[r] =
          _mm256_dpbf16_ps(acc[r], reinterpret_cast<__m256bh>(x), reinterpret_cast<__m256bh>(q));
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) _mm256_storeu_ps(s + r * kNarrowLanes, acc[r]);
}

void narrow_score(const float* prepared_q, int64_t, int64_t dim, const std::byte* const* keys,
                  int64_t n, float scale, bool, float* s, float* max) {
  const int64_t num_pairs = (dim + 1) / 2;
  for (int64_t i = 0; i < num_pairs; i += kPairBlock) {
    const int64_t count = num_pairs - i < kPairBlock ? num_pairs - i : kPairBlock;
    const float* panel = prepared_q + i * kNarrowLanes;
    int64_t r = 0;
    for (; r + kNarrowRows <= n; r += kNarrowRows)
      narrow_score_rows<kNarrowRows>(panel, keys + r, i, count, s + r * kNarrowLanes);
    for (; r + 4 <= n; r += 4)
      narrow_score_rows<4>(panel, keys + r, i, count, s + r * kNarrowLanes);
    for (; r < n; ++r) narrow_score_rows<1>(panel, keys + r, i, count, s + r * kNarrowLanes);
  }
  const __m256 factor = _mm256_set1_ps(scale);
  __m256 most = _mm256_loadu_ps(max);
  for (int64_t i = 0; i < n; ++i) {
    const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(s + i * kNarrowLanes), factor);
    _mm256_storeu_ps(s + i * kNarrowLanes, x);
    most = _mm256_max_ps(x, most);
  }
  _mm256_storeu_ps(max, most);
}

// Two keys are one vector: the even one in its lower half.
void narrow_weigh(float* s, int64_t, int64_t n, int64_t, int64_t, const float* max, bool,
                  float* z) {
  const __m512 m = _mm512_broadcast_f32x8(_mm256_loadu_ps(max));
  __m256 sum = _mm256_loadu_ps(z);
  for (int64_t i = 0; i < n; i += 2) {
    float* const at = s + i * kNarrowLanes;
    const bool paired = i + 1 < n;
    const __m512 x = paired ? _mm512_loadu_ps(at) : _mm512_castps256_ps512(_mm256_loadu_ps(at));
    const __m512 p = Vec::exp(Vec::sub(x, m));
    const __m512i rounded = _mm512_castps_si512(Vec::round_bf16(p));
    sum = _mm256_add_ps(sum, _mm512_castps512_ps256(p));
    __m256i pair = _mm256_srli_epi32(_mm512_castsi512_si256(rounded), 16);
    if (paired) {
      sum = _mm256_add_ps(sum, _mm512_extractf32x8_ps(p, 1));
      pair = _mm256_or_si256(pair, _mm512_extracti32x8_epi32(rounded, 1));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), pair);
  }
  _mm256_storeu_ps(z, sum);
}

}  // namespace

const AttentionKernels kAttentionAvx512Bf16 = {
    Vec::kLanes, kChannelLanes, sizeof(uint16_t), decode_key,  prepare_pairs<Vec::kLanes>,
    score_pairs, weigh_pairs,   add_pair_values,  divide_pairs};
const AttentionKernels kAttentionAvx512Bf16Narrow = {
    kNarrowLanes, kChannelLanes, sizeof(uint16_t), decode_key,  prepare_pairs<kNarrowLanes>,
    narrow_score, narrow_weigh,  add_pair_values,  divide_pairs};

}  // namespace cachalot::ops
