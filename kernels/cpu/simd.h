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

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

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

SPIKECONV_HD Floats splat(float x) { return Floats{} + x; }

SPIKECONV_HD Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

// a · b + c where a is ±1: the product is exact, so it may be fused.
SPIKECONV_HD Floats add_signed(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

template <class T>
SPIKECONV_HD T least(T a, T b) {
  return b < a ? b : a;
}

template <class T>
SPIKECONV_HD T most(T a, T b) {
  return a < b ? b : a;
}
