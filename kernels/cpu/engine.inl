// The float parts of a model between its products. Sums are in an order of the instruction set's own (apart from the
// norm's, which an encoder's counts may depend on), the same for any number of threads.

void engine_normalize(const float* x, int64_t n, const float* gamma, float epsilon, float* out, float* scratch) {
  if (out != x) __builtin_memcpy(out, x, size_t(n) * sizeof(float));
  normalize(out, n, gamma, epsilon, scratch);
}

void rotary(float* x, const float* cos, const float* sin, int64_t dim) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] + -b * sin[i];
    x[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

void add_rows(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// x / (1 + e^-x), from e^-|x|, which does not overflow.
void gate(const float* x, const float* up, int64_t n, float* out) {
  const auto silu = [](Floats v) {
    const Floats zero{}, one = splat(1.0f);
    const Floats small = exp_negative(v < zero ? v : -v);
    return v * (v < zero ? small : one) / (one + small);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, silu(load<Floats>(x + i)) * load<Floats>(up + i));
  for (; i < n; ++i) out[i] = silu(splat(x[i]))[0] * up[i];
}

void widen(const void* from, Dtype dtype, int64_t begin, int64_t n, float* to) { load_row(from, dtype, begin, n, to); }

void narrow(const float* from, int64_t n, Dtype dtype, void* to) {
  if (dtype == Dtype::bfloat16)
    for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = bfloat_of(from[i]);
  else
    __builtin_memcpy(to, from, size_t(n) * sizeof(float));
}

const EngineKernels engine_kernels = {
    engine_normalize, rotary, add_rows,     gate,      widen, narrow,   attend_floats, head,  note_pieces<FloatBlocks>, layer_norm,
    blend,            prepare, relu_squared, add_gated, wkv,   blend_by, tanh_row,      decay, wkv_matrix};
