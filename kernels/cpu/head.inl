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

// Inputs [i, i + steps) of rows [o, o + count) of a head as floats: where they lie, or widened into `room`.
const float* open_block(const FloatRows& weight, int64_t o, int64_t count, int64_t i, int64_t steps, float* room,
                        int64_t* stride) {
  *stride = weight.dtype == Dtype::float32 ? weight.stride : steps;
  if (weight.dtype == Dtype::float32) return static_cast<const float*>(weight.data) + o * weight.stride + i;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t at = (o + r) * weight.stride + i;
    if (weight.dtype == Dtype::int8)
      widen_blocks(static_cast<const int8_t*>(weight.data) + at, weight.scales + at / kScaled, steps, room + r * steps);
    else
      load_row(weight.data, weight.dtype, at, steps, room + r * steps);
  }
  return room;
}

// Rows of x as panels [count][n][kPanel], a row a lane; returns how many panels there are, at most kHeadPanels.
int64_t fill_panels(const float* x, int64_t rows, int64_t n, float* panels) {
  const int64_t count = least(kHeadPanels, ceil_div(rows, kPanel));
  __builtin_memset(panels, 0, size_t(count * n * kPanel) * sizeof(float));
  for (int64_t r = 0; r < least(rows, count * kPanel); ++r)
    for (int64_t i = 0; i < n; ++i) panels[(r / kPanel * n + i) * kPanel + r % kPanel] = x[r * n + i];
  return count;
}

// Panels against rows [begin, end) of a head, whose numbers are widened once for all of them:
// emit(panel, o, outputs, sums [outputs][kPanel]) for one after the other.
template <class Emit>
void head_blocks(const FloatRows& weight, const float* panels, int64_t count, int64_t n, int64_t begin, int64_t end,
                 Arena arena, const Emit& emit) {
  constexpr int64_t kSteps = 128;  // inputs at a time: with their panel they stay in the first-level cache
  constexpr int64_t kSums = kHeadRows * kPanel;
  float *room = arena.take(kHeadRows * kSteps), *sums = arena.take(count * kSums);
  for (int64_t o = begin; o < end; o += kHeadRows) {
    const int64_t outputs = least(kHeadRows, end - o);
    __builtin_memset(sums, 0, size_t(count * kSums) * sizeof(float));
    for (int64_t i = 0; i < n; i += kSteps) {
      const int64_t steps = least(kSteps, n - i);
      int64_t stride;
      const float* w = open_block(weight, o, outputs, i, steps, room, &stride);
      for (int64_t p = 0; p < count; ++p)
        add_products(w, outputs, stride, 1, panels + (p * n + i) * kPanel, steps, sums + p * kSums);
    }
    for (int64_t p = 0; p < count; ++p) emit(p, o, outputs, sums + p * kSums);
  }
}

void head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
          int64_t end, float* out, int64_t out_stride, float* scratch) {
  if (rows <= kHeadFew) {
    const auto kernel = weight.dtype == Dtype::float32 ? few_head<Dtype::float32>
                        : weight.dtype == Dtype::int8  ? few_head<Dtype::int8> : few_head<Dtype::bfloat16>;
    return kernel(weight, bias, x, rows, n, begin, end, out, out_stride);
  }
  Arena arena{scratch};
  float* panels = arena.take(kHeadPanels * n * kPanel);
  for (int64_t row = 0; row < rows; row += kHeadPanels * kPanel) {
    const int64_t count = fill_panels(x + row * n, rows - row, n, panels);
    head_blocks(weight, panels, count, n, begin, end, arena, [&](int64_t p, int64_t o, int64_t outputs, const float* sums) {
      const int64_t first = row + p * kPanel;
      for (int64_t r = 0; r < least<int64_t>(kPanel, rows - first); ++r)
        for (int64_t c = 0; c < outputs; ++c)
          out[(first + r) * out_stride + o + c] = sums[c * kPanel + r] + (bias ? bias[o + c] : 0.0f);
    });
  }
}

// Some more logits of a panel, [outputs][kPanel], the first one token o's: the highest so far, whose it is, and
// Σ e^(logit - highest).
void note_logits(const float* logits, int64_t o, int64_t outputs, float* peaks, float* sums, int32_t* best) {
  for (int v = 0; v < kPanel; v += kLanes) {
    const Floats before = load<Floats>(peaks + v);
    Floats peak = before;
    Ints token = load<Ints>(best + v);
    for (int64_t c = 0; c < outputs; ++c) {
      const Floats logit = load<Floats>(logits + c * kPanel + v);
      token = logit > peak ? splat_bits(uint32_t(o + c)) : token;
      peak = logit > peak ? logit : peak;
    }
    Floats sum = load<Floats>(sums + v) * exp_negative(before - peak);
    for (int64_t c = 0; c < outputs; ++c) sum += exp_negative(load<Floats>(logits + c * kPanel + v) - peak);
    store(peaks + v, peak);
    store(best + v, token);
    store(sums + v, sum);
  }
}

// The first that asks for a token or one behind it.
const Asked* asked_from(const LikelihoodJob& job, int64_t token) {
  const Asked *low = job.asked, *high = job.asked_end;
  while (low < high) {
    const Asked* middle = low + (high - low) / 2;
    if (middle->token < token)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

void likelihoods(const LikelihoodJob& job, int64_t piece_begin, int64_t piece_end, float* scratch) {
  Arena arena{scratch};
  float* panels = arena.take(kHeadPanels * job.n * kPanel);
  for (int64_t row = 0; row < job.rows; row += kHeadPanels * kPanel) {
    const int64_t count = fill_panels(job.x + row * job.n, job.rows - row, job.n, panels);
    for (int64_t piece = piece_begin; piece < piece_end; ++piece) {
      const int64_t begin = piece * kPieceOutputs, end = least(begin + kPieceOutputs, job.vocabulary);
      float *peaks = job.peaks + piece * job.padded + row, *sums = job.sums + piece * job.padded + row;
      int32_t* best = job.best + piece * job.padded + row;
      for (int64_t r = 0; r < count * kPanel; ++r) peaks[r] = -__FLT_MAX__, sums[r] = 0, best[r] = -1;
      head_blocks(job.weight, panels, count, job.n, begin, end, arena,
                  [&](int64_t p, int64_t o, int64_t outputs, float* logits) {
                    for (int64_t c = 0; c < outputs && job.bias; ++c)
                      for (int r = 0; r < kPanel; ++r) logits[c * kPanel + r] += job.bias[o + c];
                    note_logits(logits, o, outputs, peaks + p * kPanel, sums + p * kPanel, best + p * kPanel);
                    const int64_t first = row + p * kPanel;
                    for (const Asked* a = asked_from(job, o); a < job.asked_end && a->token < o + outputs; ++a)
                      if (first <= a->row && a->row < first + kPanel)
                        job.logits[a->index] = logits[(a->token - o) * kPanel + (a->row - first)];
                  });
    }
  }
}
