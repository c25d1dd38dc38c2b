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
  static constexpr bool kWhole = true, kUnpacks = false;  // sums need no widening
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

extern const Kernels kAvx512Vnni = {"avx512vnni", nullptr, 0, Product::kRows, 1, encode, pack, pack, dense, dense_few,
                                    list, events, write_row, rtn, encode_rows, attend, merge, peak, read, &engine_kernels};

}  // namespace spikeconv
