// Vectors of the width of the instruction set that this translation unit is compiled for, by the compilers' vector
// extension: arithmetic, comparisons and `mask ? a : b` work lane by lane. Included inside an anonymous namespace.
#pragma once

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
#if defined(__AVX512F__)
constexpr int kSumRegisters = 16;  // what of the registers a loop may use for sums
#else
constexpr int kSumRegisters = 12;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Naturals __attribute__((vector_size(4 * kLanes)));
typedef uint8_t ByteLanes __attribute__((vector_size(4 * kLanes)));

typedef int16_t Shorts __attribute__((vector_size(4 * kLanes)));

// In front of short loops over registers: unrolled in full, or the registers become memory.
#define SPIKECONV_UNROLL _Pragma("GCC unroll 16")

template <class V, class T>
SPIKECONV_HD V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
SPIKECONV_HD void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// x - 0 is x, and costs nothing; 0 + x would turn -0 into 0, and be computed.
SPIKECONV_HD Floats splat(float x) { return x - Floats{}; }

SPIKECONV_HD Ints splat_bits(uint32_t x) { return Ints{} + int32_t(x); }

// Sums and products that wrap around.
SPIKECONV_HD Ints add_ints(Ints a, Ints b) { return (Ints)((Naturals)a + (Naturals)b); }
SPIKECONV_HD Ints sub_ints(Ints a, Ints b) { return (Ints)((Naturals)a - (Naturals)b); }
SPIKECONV_HD Ints mul_ints(Ints a, Ints b) { return (Ints)((Naturals)a * (Naturals)b); }

SPIKECONV_HD Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

// All bits of the first n lanes.
SPIKECONV_HD Ints first_lanes(int64_t n) {
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < splat_bits(uint32_t(n));
}

// The first n lanes from memory that may end there, the others zero.
SPIKECONV_HD Ints load_first(const void* p, int64_t n) {
#if defined(__AVX512F__)
  return (Ints)_mm512_maskz_loadu_epi32(__mmask16((1u << n) - 1), p);
#elif defined(__AVX2__)
  return (Ints)_mm256_maskload_epi32(static_cast<const int*>(p), (__m256i)first_lanes(n));
#else
  Ints v{};
  __builtin_memcpy(&v, p, size_t(n) * sizeof(int32_t));
  return v;
#endif
}

// A vector from memory that may end behind its first n lanes.
SPIKECONV_HD Floats load_floats(const float* p, int64_t n) {
  return n >= kLanes ? load<Floats>(p) : (Floats)load_first(p, n);
}

// Σ of the lanes, in an order of the instruction set's own.
SPIKECONV_HD float lane_sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
#else
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// Σ of the bytes, each from 0 to 255.
SPIKECONV_HD uint64_t byte_sum(ByteLanes v) {
  uint64_t sum = 0;
#if defined(__AVX2__)
  uint64_t part[sizeof v / 8];
#if defined(__AVX512F__)
  const __m512i parts = _mm512_sad_epu8((__m512i)v, _mm512_setzero_si512());
#else
  const __m256i parts = _mm256_sad_epu8((__m256i)v, _mm256_setzero_si256());
#endif
  __builtin_memcpy(part, &parts, sizeof part);
  for (const uint64_t each : part) sum += each;
#else
  for (size_t i = 0; i < sizeof v; ++i) sum += uint8_t(v[i]);
#endif
  return sum;
}

// a · b + c where the sum need not be the same bits everywhere: fused where that is one instruction.
SPIKECONV_HD Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// a · b + c where a is ±1: the product is exact, so fusing changes no bit.
SPIKECONV_HD Floats add_signed(Floats a, Floats b, Floats c) { return multiply_add(a, b, c); }

template <class T>
SPIKECONV_HD T least(T a, T b) {
  return b < a ? b : a;
}

template <class T>
SPIKECONV_HD T most(T a, T b) {
  return a < b ? b : a;
}

// The bytes 0, 2, 4, 6 of a word, and 1, 3, 5, 7.
SPIKECONV_HD void split_word(uint64_t word, uint32_t& even, uint32_t& odd) {
  const auto gather = [](uint64_t x) {
    x &= 0x00FF00FF00FF00FFu;
    x = (x | x >> 8) & 0x0000FFFF0000FFFFu;
    return uint32_t(x | x >> 16);
  };
  even = gather(word);
  odd = gather(word >> 8);
}

// The lower, or upper, 8 of every 16 bytes of a and b in turns.
SPIKECONV_HD ByteLanes interleave_low(ByteLanes a, ByteLanes b) {
#if defined(__AVX512F__)
  return (ByteLanes)_mm512_unpacklo_epi8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (ByteLanes)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b);
#else
  ByteLanes v;
  for (int i = 0; i < 8; ++i) v[2 * i] = a[i], v[2 * i + 1] = b[i];
  return v;
#endif
}

SPIKECONV_HD ByteLanes interleave_high(ByteLanes a, ByteLanes b) {
#if defined(__AVX512F__)
  return (ByteLanes)_mm512_unpackhi_epi8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (ByteLanes)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b);
#else
  ByteLanes v;
  for (int i = 0; i < 8; ++i) v[2 * i] = a[8 + i], v[2 * i + 1] = b[8 + i];
  return v;
#endif
}

// Sums of two neighbours of unsigned × signed bytes each, which must fit.
SPIKECONV_HD Shorts multiply_pairs(ByteLanes w, Shorts k) {
#if defined(__AVX512F__)
  return (Shorts)_mm512_maddubs_epi16((__m512i)w, (__m512i)k);
#elif defined(__AVX2__)
  return (Shorts)_mm256_maddubs_epi16((__m256i)w, (__m256i)k);
#else
  // The first of two counts is the lower byte, with a sign.
  return ((Shorts)w & 255) * ((k << 8) >> 8) + (((Shorts)w >> 8) & 255) * (k >> 8);
#endif
}
