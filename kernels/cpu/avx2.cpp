// AVX2 and FMA. 4-bit weights times 4-bit counts fit 16-bit sums for over a hundred steps, which makes vpmaddubsw +
// vpaddw as fast as the dot-product instruction of newer machines.
#include <immintrin.h>

#include "kernels.h"
#include "../common/accumulate.h"
#include "../common/convert.h"
#include "../common/hadamard.h"

namespace spikeconv {
namespace {

#include "simd.h"

// 8 outputs × 4 inputs a vector; 16-bit sums of two inputs each.
struct Product {
  static constexpr int kRows = 6, kTiles = 1, kVectors = 2, kBytes = 32;
  static constexpr bool kWhole = false;
  using Acc = __m256i;
  using Weights = __m256i;

  static int64_t period(int weight, int count) {
    const int64_t steps = INT16_MAX / (2 * weight * count);
    return steps >= 4 ? steps / 2 * 2 : 0;  // below that the draining costs more than the wide product
  }
  static constexpr int64_t ahead(int rows) { return rows == 1 ? 0 : 512; }
  SPIKECONV_HD Acc zero() { return _mm256_setzero_si256(); }
  SPIKECONV_HD Weights weights(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  SPIKECONV_HD void hide(Weights& w) { asm volatile("" : "+x"(w)); }
  SPIKECONV_HD Weights low(const uint8_t* p) { return _mm256_and_si256(weights(p), _mm256_set1_epi8(15)); }
  SPIKECONV_HD Weights high(const uint8_t* p) {
    return _mm256_and_si256(_mm256_srli_epi16(weights(p), 4), _mm256_set1_epi8(15));
  }
  SPIKECONV_HD __m256i counts(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  SPIKECONV_HD void add(Acc& acc, Weights w, __m256i k) {
    // The addition is written out so that it stays where it is: gcc would compute all products first, and spill sums.
    asm volatile("vpaddw %1, %0, %0" : "+x"(acc) : "x"(_mm256_maddubs_epi16(w, k)));
  }
  SPIKECONV_HD Ints widen(Acc acc) { return (Ints)_mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
  SPIKECONV_HD void split(uint64_t word, uint32_t& even, uint32_t& odd) { split_word(word, even, odd); }
};

// 32-bit sums, for weights and counts too wide for the above.
struct WideProduct {
  static constexpr int kRows = 6, kTiles = 1, kVectors = 2, kBytes = 32;
  static constexpr bool kWhole = true;
  using Acc = Ints;
  using Weights = __m256i;

  static constexpr int64_t ahead(int rows) { return Product::ahead(rows); }
  SPIKECONV_HD Weights weights(const uint8_t* p) { return Product::weights(p); }
  SPIKECONV_HD Weights low(const uint8_t* p) { return Product::low(p); }
  SPIKECONV_HD Weights high(const uint8_t* p) { return Product::high(p); }
  SPIKECONV_HD __m256i counts(const int8_t* p) { return Product::counts(p); }
  SPIKECONV_HD void add(Acc& acc, Weights w, __m256i k) {
    // Bytes 0 and 2 of every group of four, then bytes 1 and 3, as 16-bit numbers.
    const __m256i w02 = _mm256_and_si256(w, _mm256_set1_epi16(255)), w13 = _mm256_srli_epi16(w, 8);
    const __m256i k02 = _mm256_srai_epi16(_mm256_slli_epi16(k, 8), 8), k13 = _mm256_srai_epi16(k, 8);
    const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(w02, k02), _mm256_madd_epi16(w13, k13));
    acc = add_ints(acc, (Ints)sum);
  }
  SPIKECONV_HD Ints widen(Acc acc) { return acc; }
};

// Columns two by two: their bytes interleave into the pairs that vpmaddubsw adds. The 64 sums of a step stay in the
// order in which they come out: even and odd outputs of bytes 0-7 of each half, then of bytes 8-15.
struct ColumnSum {
  static constexpr int kOutputs = 64, kColumns = 4;
  using Sum = int16_t;

  static int64_t period(int weight, int count) { return INT16_MAX / (weight * count); }

  static void add(const uint8_t* const* columns, const int* counts, int64_t outputs, Sum* sums) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i k[2] = {_mm256_set1_epi16(int16_t((counts[0] & 255) | counts[1] * 256)),
                          _mm256_set1_epi16(int16_t((counts[2] & 255) | counts[3] * 256))};
    for (int64_t o = 0; o < outputs; o += kOutputs, sums += kOutputs) {
      __m256i sum[4];
      SPIKECONV_UNROLL for (int i = 0; i < 4; ++i) sum[i] = load<__m256i>(sums + 16 * i);
      SPIKECONV_UNROLL for (int pair = 0; pair < 2; ++pair) {
        const __m256i a = Product::weights(columns[2 * pair] + o / 2);
        const __m256i b = Product::weights(columns[2 * pair + 1] + o / 2);
        const __m256i a0 = _mm256_and_si256(a, mask), a1 = _mm256_and_si256(_mm256_srli_epi16(a, 4), mask);
        const __m256i b0 = _mm256_and_si256(b, mask), b1 = _mm256_and_si256(_mm256_srli_epi16(b, 4), mask);
        sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a0, b0), k[pair]));
        sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a1, b1), k[pair]));
        sum[2] = _mm256_add_epi16(sum[2], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a0, b0), k[pair]));
        sum[3] = _mm256_add_epi16(sum[3], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a1, b1), k[pair]));
      }
      SPIKECONV_UNROLL for (int i = 0; i < 4; ++i) store(sums + 16 * i, sum[i]);
    }
  }

  static void drain(const Sum* sums, int64_t outputs, int32_t* acc) {
    for (int64_t o = 0; o < outputs; o += kOutputs, sums += kOutputs)
      for (int h = 0; h < 2; ++h) {
        const __m256i even = load<__m256i>(sums + 32 * h), odd = load<__m256i>(sums + 32 * h + 16);
        const __m256i parts[2] = {_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd)};
        for (int p = 0; p < 2; ++p)
          for (int half = 0; half < 2; ++half) {
            const __m128i eight = half ? _mm256_extracti128_si256(parts[p], 1) : _mm256_castsi256_si128(parts[p]);
            int32_t* out = acc + o + half * 32 + h * 16 + p * 8;
            store(out, _mm256_add_epi32(load<__m256i>(out), _mm256_cvtepi16_epi32(eight)));
          }
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

extern const Kernels kAvx2 = {"avx2", Product::kRows, encode, pack, dense, dense_few,
                              events, rtn, encode_rows, attend, merge, peak, read};

}  // namespace spikeconv
