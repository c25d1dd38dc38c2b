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
  static constexpr bool kWhole = false, kUnpacks = true;
  using Acc = __m256i;
  using Weights = __m256i;

  static int64_t period(int weight, int count) {
    const int64_t steps = INT16_MAX / (2 * weight * count);
    return steps >= 4 ? steps / 2 * 2 : 0;  // below that the draining costs more than the wide product
  }
  static constexpr int64_t ahead(int) { return 4096; }
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
  static constexpr bool kWhole = true, kUnpacks = false;
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

#include "numbers.inl"
#include "encode.inl"
#include "output.inl"
#include "tiles.inl"
#include "packing.inl"
#include "dense.inl"
#include "column_sum.inl"
#include "events.inl"
#include "limits.inl"
#include "rtn.inl"
#include "rows.inl"
#include "fields.inl"
#include "softmax.inl"
#include "attend.inl"
#include "floats.inl"
#include "head_many.inl"
#include "head.inl"
#include "attend_floats.inl"
#include "recurrent.inl"
#include "engine.inl"

}  // namespace

extern const Kernels kAvx2 = {"avx2", nullptr, 0, Product::kRows, 1, encode, pack, pack, dense, dense_few,
                              list, events, write_row, rtn, encode_rows, attend, merge, peak, read, &engine_kernels};

}  // namespace spikeconv
