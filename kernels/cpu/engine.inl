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

// Rounded to nearest, ties to even; NaN stays one.
uint16_t bfloat_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void narrow(const float* from, int64_t n, Dtype dtype, void* to) {
  if (dtype == Dtype::bfloat16)
    for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = bfloat_of(from[i]);
  else
    __builtin_memcpy(to, from, size_t(n) * sizeof(float));
}

// Rows [begin, begin + n) of `size` floats: where they lie, or widened into `room`.
const float* open_floats(const FloatRows& rows, int64_t begin, int64_t n, int64_t size, float* room, int64_t* stride) {
  if (rows.dtype == Dtype::float32) {
    *stride = rows.stride;
    return static_cast<const float*>(rows.data) + begin * rows.stride;
  }
  *stride = size;
  for (int64_t i = 0; i < n; ++i) load_row(rows.data, rows.dtype, (begin + i) * rows.stride, size, room + i * size);
  return room;
}

// Σ of the lanes of each of 2 · half vectors, the sum of vector j in lane j: half of the vectors with the other half, their
// own halves added, until one is left.
template <int half>
SPIKECONV_HD Floats lane_sums(Floats* v) {
  Ints low;
  for (int i = 0; i < kLanes; ++i) low[i] = (i & half ? kLanes : 0) + (i / half & ~1) * half + i % half;
  SPIKECONV_UNROLL for (int j = 0; j < half; ++j) {
#if defined(__clang__)
    Floats sum;
    for (int i = 0; i < kLanes; ++i) {
      const Floats& from = low[i] < kLanes ? v[j] : v[j + half];
      sum[i] = from[low[i] % kLanes] + from[low[i] % kLanes + half];
    }
    v[j] = sum;
#else
    v[j] = __builtin_shuffle(v[j], v[j + half], low) + __builtin_shuffle(v[j], v[j + half], low + half);
#endif
  }
  if constexpr (half > 1)
    return lane_sums<half / 2>(v);
  else
    return v[0];
}

constexpr int64_t kFloatsAhead = 2048;  // numbers: what is read so much later is asked for

SPIKECONV_HD void fetch_floats(const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(from + i);
}

// Scores of one query and n keys; behind them, up to a whole vector, anything.
void few_scores(const float* query, const float* keys, int64_t stride, int64_t n, int64_t dim, float* scores) {
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t k = 0; k < n; k += kLanes) {
    const float* at[kLanes];
    for (int j = 0; j < kLanes; ++j) at[j] = keys + least<int64_t>(k + j, n - 1) * stride;
    for (int j = 0; j < kLanes; ++j) fetch_floats(at[j] + kFloatsAhead, dim);
    Floats sum[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Floats q = load<Floats>(query + i);
      SPIKECONV_UNROLL for (int j = 0; j < kLanes; ++j) sum[j] = multiply_add(q, load<Floats>(at[j] + i), sum[j]);
    }
    if (whole < dim) {
      const Floats q = (Floats)load_first(query + whole, dim - whole);
      for (int j = 0; j < kLanes; ++j)
        sum[j] = multiply_add(q, (Floats)load_first(at[j] + whole, dim - whole), sum[j]);
    }
    store(scores + k, lane_sums<kLanes / 2>(sum));
  }
}

// Σ p v of one query over some values, added to `out`.
void few_values(const float* p, const float* values, int64_t stride, int64_t n, int64_t dim, float* out) {
  constexpr int kTogether = 4;
  int64_t i = 0;
  for (; i + kTogether * kLanes <= dim; i += kTogether * kLanes) {
    Floats sum[kTogether];
    SPIKECONV_UNROLL for (int v = 0; v < kTogether; ++v) sum[v] = load<Floats>(out + i + v * kLanes);
    for (int64_t k = 0; k < n; ++k) {
      const Floats weight = splat(p[k]);
      const float* at = values + k * stride + i;
      fetch_floats(at + kFloatsAhead, kTogether * kLanes);
      SPIKECONV_UNROLL for (int v = 0; v < kTogether; ++v)
        sum[v] = multiply_add(weight, load<Floats>(at + v * kLanes), sum[v]);
    }
    SPIKECONV_UNROLL for (int v = 0; v < kTogether; ++v) store(out + i + v * kLanes, sum[v]);
  }
  for (; i < dim; i += kLanes) {
    const int64_t here = least<int64_t>(kLanes, dim - i);
    Floats sum{};
    for (int64_t k = 0; k < n; ++k)
      sum = multiply_add(splat(p[k]), (Floats)load_first(values + k * stride + i, here), sum);
    for (int64_t j = 0; j < here; ++j) out[i + j] += sum[j];
  }
}

// Keys or values [begin, begin + n): where they lie, or widened into `room`, as are those on both sides of the fork.
const float* open_states(const FloatAttendJob& job, const FloatRows& rows, int64_t begin, int64_t n, float* room,
                         int64_t* stride) {
  const int64_t shared = job.fork - begin;
  if (!job.gap || shared >= n) return open_floats(rows, begin, n, job.dim, room, stride);
  if (shared <= 0) return open_floats(rows, begin + job.gap, n, job.dim, room, stride);
  *stride = job.dim;
  for (int64_t i = 0; i < n; ++i)
    load_row(rows.data, rows.dtype, (begin + i + (i < shared ? 0 : job.gap)) * rows.stride, job.dim, room + i * job.dim);
  return room;
}

void few_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, Arena arena) {
  const int64_t dim = job.dim, rows = part.rows(), record = dim + kRecordExtra;
  float *query = arena.take(kFewQueryRows * dim), *scores = arena.take(kFewQueryRows * kFewKeys);
  float* room = arena.take(kTileKeys * dim);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = part.row_begin + r;
    const float* from = job.query + row / job.repeats * job.query_stride + row % job.repeats * dim;
    for (int64_t i = 0; i < dim; ++i) query[r * dim + i] = from[i] * job.scaling;
    __builtin_memset(records + r * record, 0, size_t(record) * sizeof(float));
  }
  for (int64_t k = part.key_begin; k < part.key_end; k += kTileKeys) {
    const int64_t n = least<int64_t>(kTileKeys, part.key_end - k);
    int64_t stride;
    const float* keys = open_states(job, job.keys, k, n, room, &stride);
    for (int64_t r = 0; r < rows; ++r)
      few_scores(query + r * dim, keys, stride, n, dim, scores + r * kFewKeys + (k - part.key_begin));
  }
  const int64_t count = part.key_end - part.key_begin;
  for (int64_t r = 0; r < rows; ++r) {
    float *s = scores + r * kFewKeys, *to = records + r * record;
    const int64_t low = job.low(part.row_begin + r) - part.key_begin, high = job.high(part.row_begin + r) - part.key_begin;
    for (int64_t i = 0; i < count; ++i)
      if (i < low || i > high) s[i] = -kInfinity;
    const Softmax softmax = few_softmax(s, count);
    to[dim] = softmax.peak;
    to[dim + 1] = softmax.sum;
  }
  for (int64_t k = part.key_begin; k < part.key_end; k += kTileKeys) {
    const int64_t n = least<int64_t>(kTileKeys, part.key_end - k);
    int64_t stride;
    const float* values = open_states(job, job.values, k, n, room, &stride);
    for (int64_t r = 0; r < rows; ++r)
      few_values(scores + r * kFewKeys + (k - part.key_begin), values, stride, n, dim, records + r * record);
  }
}

PanelState begin_float_panel(const FloatAttendJob& job, int64_t row, int64_t n, Arena& arena) {
  const PanelState panel = take_panel(job.dim, arena);
  for (int64_t r = 0; r < n; ++r) {
    const float* from = job.query + (row + r) / job.repeats * job.query_stride + (row + r) % job.repeats * job.dim;
    for (int64_t i = 0; i < job.dim; ++i) panel.query[i * kPanel + r] = from[i] * job.scaling;
  }
  return panel;
}

void many_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, Arena arena) {
  const int64_t dim = job.dim, rows = part.rows(), record = dim + kRecordExtra, count = ceil_div(rows, kPanel);
  PanelState panels[ceil_div(kMostRows, kPanel)];
  const auto rows_of = [&](int64_t p) { return least<int64_t>(kPanel, rows - p * kPanel); };
  for (int64_t p = 0; p < count; ++p)
    panels[p] = begin_float_panel(job, part.row_begin + p * kPanel, rows_of(p), arena);
  float *key_room = arena.take(kTileKeys * dim), *value_room = arena.take(kTileKeys * dim);
  for (int64_t k = part.key_begin; k < part.key_end; k += kTileKeys) {
    const int64_t n = least<int64_t>(kTileKeys, part.key_end - k);
    int64_t key_stride, value_stride;
    const float* keys = open_states(job, job.keys, k, n, key_room, &key_stride);
    const float* values = open_states(job, job.values, k, n, value_room, &value_stride);
    for (int64_t p = 0; p < count; ++p) {
      PanelState& panel = panels[p];
      const int64_t first = part.row_begin + p * kPanel, last = first + rows_of(p) - 1;
      if (k > job.high(last) || k + n <= job.low(first)) continue;
      __builtin_memset(panel.scores, 0, size_t(n) * kPanel * sizeof(float));
      add_products(keys, n, key_stride, 1, panel.query, dim, panel.scores);
      if (k + n - 1 > job.high(first) || k < job.low(last))
        for (int64_t r = first; r <= last; ++r)
          for (int64_t i = 0; i < n; ++i)
            if (k + i < job.low(r) || k + i > job.high(r)) panel.scores[i * kPanel + (r - first)] = -kInfinity;
      panel_softmax(panel, n, dim);
      add_products(values, dim, 1, value_stride, panel.scores, n, panel.sum);
    }
  }
  for (int64_t p = 0; p < count; ++p)
    for (int64_t r = 0; r < rows_of(p); ++r) {
      float* to = records + (p * kPanel + r) * record;
      for (int64_t i = 0; i < dim; ++i) to[i] = panels[p].sum[i * kPanel + r];
      to[dim] = panels[p].peak[r];
      to[dim + 1] = panels[p].total[r];
    }
}

void attend_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, float* scratch) {
  (part.rows() <= kFewQueryRows ? few_floats : many_floats)(job, part, records, {scratch});
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

template <Dtype dtype>
void few_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
              int64_t end, float* out, int64_t out_stride) {
  const auto kernel = rows == 1 ? stream_head<dtype, 1> : rows == 2 ? stream_head<dtype, 2>
                      : rows == 3 ? stream_head<dtype, 3> : stream_head<dtype, 4>;
  kernel(weight, bias, x, n, begin, end, out, out_stride);
}

void head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
          int64_t end, float* out, int64_t out_stride, float* scratch) {
  if (rows <= kHeadFew) {
    (weight.dtype == Dtype::float32 ? few_head<Dtype::float32> : few_head<Dtype::bfloat16>)(weight, bias, x, rows, n,
                                                                                           begin, end, out, out_stride);
    return;
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

const EngineKernels engine_kernels = {engine_normalize, rotary, add_rows, gate, widen, narrow, attend_floats, head};
