// Accumulators → the output tensor, a vector of outputs at a time, straight from registers.

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

// What is the same for all outputs of a token.
struct TokenOutput {
  int32_t offset, zero;  // 2^(bits-1) · Σ k
  float scale;
};

TokenOutput token_output(const Output& out, int bits, int32_t count_sum, int64_t token) {
  return {multiply_wrapped(weight_offset(bits), count_sum), out.zero ? out.zero[token] : 0,
          out.scale ? out.scale[token] : 0.0f};
}

// Accumulators of the outputs `first` … of a token, at most n of them; bias [kLanes] or null.
SPIKECONV_HD void write_outputs(const Output& out, const TokenOutput& of, int64_t token, int64_t first, int64_t n, Ints acc,
                                const float* bias) {
  const int64_t here = least<int64_t>(n, kLanes);
  acc = sub_ints(acc, splat_bits(uint32_t(of.offset)));
  if (out.zero) {
    const Ints sums = here == kLanes ? load<Ints>(out.weight_sum + first) : load_first(out.weight_sum + first, here);
    acc = sub_ints(acc, mul_ints(splat_bits(uint32_t(of.zero)), sums));
  }
  const int64_t at = token * out.stride + first;
  if (!out.scale) return store_first(static_cast<int32_t*>(out.data) + at, acc, here);
  const Floats weight_scale =
      here == kLanes ? load<Floats>(out.weight_scale + first) : (Floats)load_first(out.weight_scale + first, here);
  Floats y = to_floats(acc) * splat(of.scale) * weight_scale;
  if (bias) y += load<Floats>(bias);
  if (out.dtype == Dtype::float32)
    store_first(static_cast<float*>(out.data) + at, y, here);
  else
    store_first(static_cast<uint16_t*>(out.data) + at, out.dtype == Dtype::bfloat16 ? to_bfloats(y) : to_halves(y), here);
}

// A row of accumulators [n] of one token, outputs from `first` on.
void write_row(const Output& out, int bits, int32_t count_sum, int64_t token, int64_t first, int64_t n,
               const int32_t* acc) {
  const TokenOutput of = token_output(out, bits, count_sum, token);
  float bias[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t here = least<int64_t>(kLanes, n - i);
    if (out.bias) load_row(out.bias, out.bias_dtype, first + i, here, bias);
    write_outputs(out, of, token, first + i, here, here == kLanes ? load<Ints>(acc + i) : load_first(acc + i, here),
                  out.bias ? bias : nullptr);
  }
}
