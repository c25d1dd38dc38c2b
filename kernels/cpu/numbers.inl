// Numbers of a type as floats, and back.

SPIKECONV_HD float half_to_float(uint16_t h) {
  _Float16 x;
  __builtin_memcpy(&x, &h, 2);
  return float(x);
}

void load_row(const void* x, Dtype dtype, int64_t begin, int64_t n, float* out) {
  switch (dtype) {
    case Dtype::bfloat16:
      for (int64_t i = 0; i < n; ++i) out[i] = bfloat_to_float(static_cast<const uint16_t*>(x)[begin + i]);
      break;
    case Dtype::float16:
      for (int64_t i = 0; i < n; ++i) out[i] = half_to_float(static_cast<const uint16_t*>(x)[begin + i]);
      break;
    default: __builtin_memcpy(out, static_cast<const float*>(x) + begin, size_t(n) * sizeof(float));
  }
}

typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

// bfloat16 to nearest, ties to even; NaN stays NaN: float_to_bfloat (common/convert.h) lane by lane.
SPIKECONV_HD Halves to_bfloats(Floats y) {
  const Naturals bits = (Naturals)y, one = Naturals{} + 1;
  const Naturals rounded = (bits + 0x7FFF + (bits >> 16 & one)) >> 16, nan = bits >> 16 | 64;
  return __builtin_convertvector(y != y ? nan : rounded, Halves);
}

SPIKECONV_HD Halves to_halves(Floats y) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (Halves)_mm256_cvtps_ph((__m256)y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  Halves h;
  for (int i = 0; i < kLanes; ++i) {
    const _Float16 x = _Float16(y[i]);
    uint16_t bits;
    __builtin_memcpy(&bits, &x, 2);
    h[i] = bits;
  }
  return h;
#endif
}

// The first n lanes of a vector to memory.
template <class V, class T>
SPIKECONV_HD void store_first(T* p, V v, int64_t n) {
  if (n >= kLanes)
    store(p, v);
  else
    __builtin_memcpy(p, &v, size_t(n) * sizeof(v) / kLanes);
}
