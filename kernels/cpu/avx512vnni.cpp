// AVX-512 with VNNI: vpdpbusd adds four products of unsigned weights and signed counts to a 32-bit sum, exactly.
#include <immintrin.h>

#include "kernels.h"
#include "../common/accumulate.h"
#include "../common/convert.h"
#include "../common/hadamard.h"

namespace spikeconv {
namespace {

#include "simd.h"

// 16 outputs × 4 inputs a vector. A register tile is 6 tokens × 64 outputs: 24 sums, 4 weights, a mask, a count.
struct Product {
  static constexpr int kRows = 6, kTiles = 4, kVectors = 1, kBytes = 64;
  static constexpr bool kWhole = true;  // sums need no widening
  using Acc = Ints;
  using Weights = __m512i;

  static int64_t period(int, int) { return INT64_MAX; }
  // Bytes that are fetched ahead of a stream; for one token the hardware does 5-15 % better alone (Zen 4).
  static constexpr int64_t ahead(int rows) { return rows == 1 ? 0 : 512; }
  SPIKECONV_HD Acc zero() { return Ints{}; }
  SPIKECONV_HD void hide(Weights& w) { asm volatile("" : "+v"(w)); }
  SPIKECONV_HD Weights weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
  SPIKECONV_HD Weights low(const uint8_t* p) { return _mm512_and_si512(weights(p), _mm512_set1_epi8(15)); }
  SPIKECONV_HD Weights high(const uint8_t* p) {
    return _mm512_and_si512(_mm512_srli_epi16(weights(p), 4), _mm512_set1_epi8(15));
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
  SPIKECONV_HD Ints widen(Acc acc) { return acc; }
  SPIKECONV_HD void split(uint64_t word, uint32_t& even, uint32_t& odd) {
    even = uint32_t(_pext_u64(word, 0x00FF00FF00FF00FFu));
    odd = uint32_t(_pext_u64(word, 0xFF00FF00FF00FF00u));
  }
};

using WideProduct = Product;

// Columns four by four: their bytes interleave into the groups that vpdpbusd adds. The 128 sums of a step stay in the
// order in which they come out: sum[h][p] holds, in its lane of 128 bits number l, outputs 32·l + 8·p + 2·i + h.
struct ColumnSum {
  static constexpr int kOutputs = 128, kColumns = 4;
  using Sum = int32_t;

  static int64_t period(int, int) { return INT64_MAX / 2; }

  static void add(const uint8_t* const* columns, const int* counts, int64_t outputs, Sum* sums) {
    const __m512i mask = _mm512_set1_epi8(15);
    uint32_t four = 0;
    for (int j = 0; j < 4; ++j) four |= uint32_t(counts[j] & 255) << 8 * j;
    const __m512i k = _mm512_set1_epi32(int32_t(four));
    for (int64_t o = 0; o < outputs; o += kOutputs)
      for (int h = 0; h < 2; ++h, sums += kOutputs / 2) {  // low nibbles are even outputs, high nibbles odd ones
        __m512i w[4];
        SPIKECONV_UNROLL for (int j = 0; j < 4; ++j) {
          const __m512i both = Product::weights(columns[j] + o / 2);
          w[j] = _mm512_and_si512(h ? _mm512_srli_epi16(both, 4) : both, mask);
        }
        const __m512i ab_low = _mm512_unpacklo_epi8(w[0], w[1]), ab_high = _mm512_unpackhi_epi8(w[0], w[1]);
        const __m512i cd_low = _mm512_unpacklo_epi8(w[2], w[3]), cd_high = _mm512_unpackhi_epi8(w[2], w[3]);
        const __m512i groups[4] = {_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
                                   _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)};
        SPIKECONV_UNROLL for (int p = 0; p < 4; ++p)
          store(sums + 16 * p, _mm512_dpbusd_epi32(load<__m512i>(sums + 16 * p), groups[p], k));
      }
  }

  static void drain(const Sum* sums, int64_t outputs, int32_t* acc) {
    for (int64_t o = 0; o < outputs; o += kOutputs)
      for (int h = 0; h < 2; ++h)
        for (int p = 0; p < 4; ++p, sums += 16)
          for (int l = 0; l < 4; ++l)
            for (int i = 0; i < 4; ++i) {
              int32_t& to = acc[o + 32 * l + 8 * p + 2 * i + h];
              to = add_wrapped(to, sums[4 * l + i]);
            }
  }
};

#include "encode.inl"
#include "packing.inl"
#include "output.inl"
#include "dense.inl"
#include "events.inl"
#include "limits.inl"
#include "rtn.inl"
#include "rows.inl"
#include "fields.inl"
#include "attend.inl"

}  // namespace

extern const Kernels kAvx512Vnni = {"avx512vnni", Product::kRows, encode, pack, dense, dense_few,
                                    events, rtn, encode_rows, attend, merge, peak, read};

}  // namespace spikeconv
