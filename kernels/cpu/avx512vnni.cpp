// AVX-512 with VNNI: vpdpbusd adds four products of unsigned weights and signed counts to a 32-bit sum, exactly.
#include <immintrin.h>

#include "kernels.h"
#include "../common/accumulate.h"
#include "../common/hadamard.h"

namespace spikeconv {
namespace {

#include "simd.h"

// 16 outputs × 4 inputs a vector.
struct Product {
  static constexpr int kRows = 14, kStreamRows = 4, kChains = 2, kVectors = 1, kBytes = 64;
  using Acc = __m512i;
  using Weights = __m512i;

  static int64_t period(int, int) { return INT64_MAX / 2; }
  SPIKECONV_HD Acc zero() { return _mm512_setzero_si512(); }
  SPIKECONV_HD Weights weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
  SPIKECONV_HD void nibbles(const uint8_t* p, Weights& even, Weights& odd) {
    const __m512i mask = _mm512_set1_epi8(15), both = weights(p);
    even = _mm512_and_si512(both, mask);
    odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
  }
  SPIKECONV_HD __m512i counts(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  SPIKECONV_HD void add(Acc& acc, Weights w, __m512i k) {
    // Written out so that it stays where it is: gcc would load all counts first, and spill sums.
    asm volatile("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(k));
  }
  SPIKECONV_HD void drain(Acc acc, int32_t* out) { store(out, _mm512_add_epi32(load<__m512i>(out), acc)); }
};

using WideProduct = Product;

// Columns four by four: their bytes interleave into the groups that vpdpbusd adds.
struct ColumnSum {
  static constexpr int kOutputs = 128, kBatch = 32;

  static int64_t batch(int, int) { return kBatch; }

  static void add(const uint8_t* base, int64_t stride, const int32_t* index, const int16_t* count, int64_t n,
                  int32_t* acc) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i sum[2][4] = {};
    for (int64_t e = 0; e < n; e += 4) {
      __m512i column[4];
      uint32_t counts = 0;
      for (int j = 0; j < 4; ++j) {
        const bool here = e + j < n;
        column[j] = Product::weights(base + index[here ? e + j : e] * stride);
        counts |= uint32_t(here ? count[e + j] & 255 : 0) << 8 * j;
      }
      const __m512i k = _mm512_set1_epi32(int32_t(counts));
      for (int h = 0; h < 2; ++h) {  // low nibbles are even outputs, high nibbles odd ones
        __m512i w[4];
        for (int j = 0; j < 4; ++j) w[j] = _mm512_and_si512(h ? _mm512_srli_epi16(column[j], 4) : column[j], mask);
        const __m512i ab_low = _mm512_unpacklo_epi8(w[0], w[1]), ab_high = _mm512_unpackhi_epi8(w[0], w[1]);
        const __m512i cd_low = _mm512_unpacklo_epi8(w[2], w[3]), cd_high = _mm512_unpackhi_epi8(w[2], w[3]);
        sum[h][0] = _mm512_dpbusd_epi32(sum[h][0], _mm512_unpacklo_epi16(ab_low, cd_low), k);
        sum[h][1] = _mm512_dpbusd_epi32(sum[h][1], _mm512_unpackhi_epi16(ab_low, cd_low), k);
        sum[h][2] = _mm512_dpbusd_epi32(sum[h][2], _mm512_unpacklo_epi16(ab_high, cd_high), k);
        sum[h][3] = _mm512_dpbusd_epi32(sum[h][3], _mm512_unpackhi_epi16(ab_high, cd_high), k);
      }
    }
    // sum[h][p] holds, in its lane of 128 bits number l, the outputs 32·l + 8·p + 2·i + h, i = 0 … 3.
    alignas(64) int32_t lanes[2][kTileOutputs];
    for (int p = 0; p < 4; ++p) {
      for (int h = 0; h < 2; ++h) store(lanes[h], sum[h][p]);
      for (int l = 0; l < 4; ++l)
        for (int i = 0; i < 8; ++i) acc[32 * l + 8 * p + i] += lanes[i % 2][4 * l + i / 2];
    }
  }
};

#include "encode.inl"
#include "dense.inl"
#include "events.inl"
#include "limits.inl"
#include "rtn.inl"

}  // namespace

extern const Kernels kAvx512Vnni = {"avx512vnni", Product::kRows, Product::kStreamRows, encode, make_panel,
                                    dense, events, rtn, peak, read};

}  // namespace spikeconv
