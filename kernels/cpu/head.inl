// Products with a head of floats: a few rows as its weights stream by, many in panels.

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

// Four rows of x at a time; where there are more, they meet weights that are in the second-level cache by then.
template <Dtype dtype>
void few_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
              int64_t end, float* out, int64_t out_stride) {
  const int64_t block = rows <= 4 ? end - begin : kPieceOutputs;
  for (int64_t o = begin; o < end; o += block)
    for (int64_t row = 0; row < rows; row += 4) {
      const int64_t here = rows - row;
      const auto kernel = here == 1 ? few_rows<dtype, 1> : here == 2 ? few_rows<dtype, 2>
                          : here == 3 ? few_rows<dtype, 3> : few_rows<dtype, 4>;
      kernel(weight, bias, x + row * n, n, o, least(o + block, end), out + row * out_stride, out_stride);
    }
}

// Panels of floats against the head's numbers, which are widened once for all of them.
class FloatBlocks {
 public:
  FloatBlocks(int64_t n, Arena arena) : n_(n), panels_(arena.take(kHeadPanels * n * kPanel)), arena_(arena) {}

  int64_t fill(const float* x, int64_t rows) { return count_ = fill_panels(x, rows, n_, n_, panels_); }

  template <class Emit>
  void run(const FloatRows& weight, int64_t begin, int64_t end, const Emit& emit) {
    constexpr int64_t kSteps = 128;  // inputs at a time: with their panel they stay in the first-level cache
    constexpr int64_t kSums = kHeadRows * kPanel;
    Arena arena = arena_;
    float *room = arena.take(kHeadRows * kSteps), *sums = arena.take(count_ * kSums);
    for (int64_t o = begin; o < end; o += kHeadRows) {
      const int64_t outputs = least(kHeadRows, end - o);
      __builtin_memset(sums, 0, size_t(count_ * kSums) * sizeof(float));
      for (int64_t i = 0; i < n_; i += kSteps) {
        const int64_t steps = least(kSteps, n_ - i);
        int64_t stride;
        const float* w = open_block(weight, o, outputs, i, steps, room, &stride);
        for (int64_t p = 0; p < count_; ++p)
          add_products(w, outputs, stride, 1, panels_ + (p * n_ + i) * kPanel, steps, sums + p * kSums);
      }
      for (int64_t p = 0; p < count_; ++p) emit(p, o, outputs, sums + p * kSums);
    }
  }

 private:
  int64_t n_, count_ = 0;
  float* panels_;
  Arena arena_;
};

void head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
          int64_t end, float* out, int64_t out_stride, float* scratch) {
  if (rows > kHeadFew) return many_head<FloatBlocks>(weight, bias, x, rows, n, begin, end, out, out_stride, scratch);
  const auto kernel = weight.dtype == Dtype::float32 ? few_head<Dtype::float32>
                      : weight.dtype == Dtype::int8  ? few_head<Dtype::int8> : few_head<Dtype::bfloat16>;
  kernel(weight, bias, x, rows, n, begin, end, out, out_stride);
}
