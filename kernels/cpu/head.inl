// Rows of floats as they are held (float32, bfloat16, or int8 and a scale for a block), and products with a head of them.

// kLanes whole numbers as floats.
SPIKECONV_HD Floats floats_of(const int8_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
  Floats wide;
  for (int lane = 0; lane < kLanes; ++lane) wide[lane] = float(from[lane]);
  return wide;
#endif
}

void widen_blocks(const int8_t* from, const float* scales, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kLanes) store(to + i, floats_of(from + i) * splat(scales[i / kScaled]));
}

// Rows [begin, begin + n) of `size` floats: where they lie, or widened into `room`.
const float* open_floats(const FloatRows& rows, int64_t begin, int64_t n, int64_t size, float* room, int64_t* stride) {
  if (rows.dtype == Dtype::float32) {
    *stride = rows.stride;
    return static_cast<const float*>(rows.data) + begin * rows.stride;
  }
  *stride = size;
  for (int64_t i = begin; i < begin + n; ++i, room += size)
    if (rows.dtype == Dtype::int8)
      widen_blocks(static_cast<const int8_t*>(rows.data) + i * size, rows.scales + i * (size / kScaled), size, room);
    else
      load_row(rows.data, rows.dtype, i * rows.stride, size, room);
  return room - n * size;
}

// Weights as they stream by: of a type, kLanes at a time.
template <Dtype dtype>
SPIKECONV_HD Floats stream_weight(const void* weight, int64_t at) {
  if constexpr (dtype == Dtype::float32) {
    return load<Floats>(static_cast<const float*>(weight) + at);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(weight) + at;
#if defined(__AVX512F__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16);
#elif defined(__AVX2__)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16);
#else
    Floats wide;
    for (int lane = 0; lane < kLanes; ++lane) wide[lane] = bfloat_to_float(from[lane]);
    return wide;
#endif
  }
}

// Two long streams of weights: the rows of either half of [begin, end), each read from its begin to its end.
template <Dtype dtype, int rows>
void stream_head(const FloatRows& weight, const float* bias, const float* x, int64_t n, int64_t begin, int64_t end,
                 float* out, int64_t out_stride) {
  constexpr int kStreams = 2, kChains = rows <= 2 ? 2 : 1;
  const int64_t count = end - begin, half = ceil_div(count, kStreams), whole = n / (kChains * kLanes) * kChains * kLanes;
  for (int64_t o = 0; o < half; ++o) {
    Floats sum[kStreams][rows][kChains] = {};
    int64_t row[kStreams];
    for (int s = 0; s < kStreams; ++s) row[s] = begin + least(o + s * half, count - 1);
    for (int64_t i = 0; i < whole; i += kChains * kLanes)
      SPIKECONV_UNROLL for (int c = 0; c < kChains; ++c) {
        Floats in[rows];
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) in[r] = load<Floats>(x + r * n + i + c * kLanes);
        SPIKECONV_UNROLL for (int s = 0; s < kStreams; ++s) {
          const Floats w = stream_weight<dtype>(weight.data, row[s] * weight.stride + i + c * kLanes);
          SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) sum[s][r][c] = multiply_add(w, in[r], sum[s][r][c]);
        }
      }
    for (int s = 0; s < kStreams; ++s)
      for (int r = 0; r < rows; ++r) {
        float y = lane_sum(kChains == 2 ? sum[s][r][0] + sum[s][r][kChains - 1] : sum[s][r][0]);
        for (int64_t i = whole; i < n; ++i) {
          float w;
          load_row(weight.data, dtype, row[s] * weight.stride + i, 1, &w);
          y += w * x[r * n + i];
        }
        out[r * out_stride + row[s]] = bias ? y + bias[row[s]] : y;
      }
  }
}

// The same for int8: what a block adds up to goes to its sum with the block's scale.
template <int rows>
void stream_blocks(const FloatRows& weight, const float* bias, const float* x, int64_t n, int64_t begin, int64_t end,
                   float* out, int64_t out_stride) {
  constexpr int kStreams = 2;
  const int64_t count = end - begin, half = ceil_div(count, kStreams);
  for (int64_t o = 0; o < half; ++o) {
    Floats sum[kStreams][rows] = {};
    int64_t row[kStreams];
    for (int s = 0; s < kStreams; ++s) row[s] = begin + least(o + s * half, count - 1);
    for (int64_t i = 0; i < n; i += kScaled)
      SPIKECONV_UNROLL for (int s = 0; s < kStreams; ++s) {
        const int8_t* from = static_cast<const int8_t*>(weight.data) + row[s] * n + i;
        const Floats scale = splat(weight.scales[(row[s] * n + i) / kScaled]);
        Floats part[rows] = {};
        SPIKECONV_UNROLL for (int64_t j = 0; j < kScaled; j += kLanes) {
          const Floats w = floats_of(from + j);
          SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
            part[r] = multiply_add(w, load<Floats>(x + r * n + i + j), part[r]);
        }
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) sum[s][r] = multiply_add(part[r], scale, sum[s][r]);
      }
    for (int s = 0; s < kStreams; ++s)
      for (int r = 0; r < rows; ++r) {
        const float y = lane_sum(sum[s][r]);
        out[r * out_stride + row[s]] = bias ? y + bias[row[s]] : y;
      }
  }
}

template <Dtype dtype, int rows>
void few_rows(const FloatRows& weight, const float* bias, const float* x, int64_t n, int64_t begin, int64_t end,
              float* out, int64_t out_stride) {
  if constexpr (dtype == Dtype::int8)
    stream_blocks<rows>(weight, bias, x, n, begin, end, out, out_stride);
  else
    stream_head<dtype, rows>(weight, bias, x, n, begin, end, out, out_stride);
}

template <Dtype dtype>
void few_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
              int64_t end, float* out, int64_t out_stride) {
  const auto kernel = rows == 1 ? few_rows<dtype, 1> : rows == 2 ? few_rows<dtype, 2>
                      : rows == 3 ? few_rows<dtype, 3> : few_rows<dtype, 4>;
  kernel(weight, bias, x, n, begin, end, out, out_stride);
}

void head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
          int64_t end, float* out, int64_t out_stride, float* scratch) {
  if (rows <= kHeadFew) {
    const auto kernel = weight.dtype == Dtype::float32 ? few_head<Dtype::float32>
                        : weight.dtype == Dtype::int8  ? few_head<Dtype::int8> : few_head<Dtype::bfloat16>;
    return kernel(weight, bias, x, rows, n, begin, end, out, out_stride);
  }
  constexpr int64_t kSteps = 128;  // inputs at a time: their panel stays in the first-level cache
  Arena arena{scratch};
  float *room = arena.take(kHeadRows * n), *panel = arena.take(n * kPanel), *sums = arena.take(kHeadRows * kPanel);
  for (int64_t row = 0; row < rows; row += kPanel) {
    const int64_t here = least<int64_t>(kPanel, rows - row);
    __builtin_memset(panel, 0, size_t(n * kPanel) * sizeof(float));
    for (int64_t r = 0; r < here; ++r)
      for (int64_t i = 0; i < n; ++i) panel[i * kPanel + r] = x[(row + r) * n + i];
    for (int64_t o = begin; o < end; o += kHeadRows) {
      const int64_t count = least(kHeadRows, end - o);
      int64_t stride;
      const float* w = open_floats(weight, o, count, n, room, &stride);
      __builtin_memset(sums, 0, size_t(count * kPanel) * sizeof(float));
      for (int64_t i = 0; i < n; i += kSteps)
        add_products(w + i, count, stride, 1, panel + i * kPanel, least(kSteps, n - i), sums);
      for (int64_t r = 0; r < here; ++r)
        for (int64_t c = 0; c < count; ++c)
          out[(row + r) * out_stride + o + c] = sums[c * kPanel + r] + (bias ? bias[o + c] : 0.0f);
    }
  }
}

