// Attention over floats: a few queries (a token) lane by lane as keys and values stream by, many in panels as in
// attend_many.inl.

// Rounded to nearest, ties to even; NaN stays one.
uint16_t bfloat_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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

constexpr int64_t kBytesAhead = 8192;  // what is read so much later is asked for

template <Dtype dtype>
SPIKECONV_HD void fetch_ahead(const void* rows, int64_t at, int64_t n) {
  constexpr int64_t kSize = dtype == Dtype::float32 ? 4 : 2;
  const char* from = static_cast<const char*>(rows) + at * kSize + kBytesAhead;
  for (int64_t i = 0; i < n * kSize; i += 64) __builtin_prefetch(from + i);
}

// Scores of one query and n keys; behind them, up to a whole vector, anything. `fetches`: asks for keys further on. Keys
// that are not float32 are a whole number of vectors.
template <Dtype dtype, bool fetches>
void few_scores(const float* query, const void* keys, int64_t stride, int64_t n, int64_t dim, float* scores) {
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t k = 0; k < n; k += kLanes) {
    int64_t at[kLanes];
    for (int j = 0; j < kLanes; ++j) at[j] = least<int64_t>(k + j, n - 1) * stride;
    Floats sum[kLanes] = {};
    SPIKECONV_UNROLL for (int j = 0; j < kLanes; ++j)  // key by key, as they lie in memory
      for (int64_t i = 0; i < whole; i += kLanes) {
        if (fetches) fetch_ahead<dtype>(keys, at[j] + i, kLanes);
        sum[j] = multiply_add(load<Floats>(query + i), stream_weight<dtype>(keys, at[j] + i), sum[j]);
      }
    if constexpr (dtype == Dtype::float32)
      if (whole < dim) {
        const Floats q = (Floats)load_first(query + whole, dim - whole);
        for (int j = 0; j < kLanes; ++j) {
          const float* rest = static_cast<const float*>(keys) + at[j] + whole;
          sum[j] = multiply_add(q, (Floats)load_first(rest, dim - whole), sum[j]);
        }
      }
    store(scores + k, lane_sums<kLanes / 2>(sum));
  }
}

// Σ p v of some queries over some values, added to `out`; weights and sums of a query behind those of another.
template <Dtype dtype, int rows>
void few_values(const float* p, const void* values, int64_t stride, int64_t n, int64_t dim, float* out,
                int64_t out_stride) {
  constexpr int kTogether = rows <= 2 || kSumRegisters >= 16 ? 4 : 2;
  int64_t i = 0;
  const auto some = [&](auto vectors) {
    constexpr int kVectors = vectors.value;
    Floats sum[rows][kVectors];
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
      SPIKECONV_UNROLL for (int v = 0; v < kVectors; ++v) sum[r][v] = load<Floats>(out + r * out_stride + i + v * kLanes);
    for (int64_t k = 0; k < n; ++k) {
      fetch_ahead<dtype>(values, k * stride + i, kVectors * kLanes);
      Floats value[kVectors];
      SPIKECONV_UNROLL for (int v = 0; v < kVectors; ++v)
        value[v] = stream_weight<dtype>(values, k * stride + i + v * kLanes);
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
        const Floats weight = splat(p[r * kFewKeys + k]);
        SPIKECONV_UNROLL for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add(weight, value[v], sum[r][v]);
      }
    }
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
      SPIKECONV_UNROLL for (int v = 0; v < kVectors; ++v) store(out + r * out_stride + i + v * kLanes, sum[r][v]);
    i += kVectors * kLanes;
  };
  while (i + kTogether * kLanes <= dim) some(std::integral_constant<int, kTogether>());
  while (i + kLanes <= dim) some(std::integral_constant<int, 1>());
  if constexpr (dtype == Dtype::float32)
    for (int r = 0; i < dim && r < rows; ++r) {
      Floats sum{};
      for (int64_t k = 0; k < n; ++k) {
        const float* rest = static_cast<const float*>(values) + k * stride + i;
        sum = multiply_add(splat(p[r * kFewKeys + k]), (Floats)load_first(rest, dim - i), sum);
      }
      for (int64_t j = 0; j < dim - i; ++j) out[r * out_stride + i + j] += sum[j];
    }
}

// Each of these for a number of queries.
template <Dtype dtype>
void few_scores_of(const float* query, int64_t rows, const FloatRows& keys, int64_t n, int64_t dim, float* scores) {
  for (int64_t r = 0; r < rows; ++r)
    (r ? few_scores<dtype, false> : few_scores<dtype, true>)(query + r * dim, keys.data, keys.stride, n, dim,
                                                             scores + r * kFewKeys);
}

template <Dtype dtype>
void few_values_of(const float* p, int64_t rows, const FloatRows& values, int64_t n, int64_t dim, float* out,
                   int64_t out_stride) {
  for (int64_t r = 0; r < rows; r += 4) {
    const int64_t here = least<int64_t>(4, rows - r);
    const auto kernel = here == 1 ? few_values<dtype, 1> : here == 2 ? few_values<dtype, 2>
                        : here == 3 ? few_values<dtype, 3> : few_values<dtype, 4>;
    kernel(p + r * kFewKeys, values.data, values.stride, n, dim, out + r * out_stride, out_stride);
  }
}

// Keys or values [begin, begin + n): where they lie, or widened into `room`, as are those on both sides of the fork.
const float* open_states(const FloatAttendJob& job, const FloatRows& rows, int64_t begin, int64_t n, float* room,
                         int64_t* stride) {
  if (!job.fork.parts(begin, n)) return open_floats(rows, job.fork.row_of(begin), n, job.dim, room, stride);
  *stride = job.dim;
  for (int64_t i = 0; i < n; ++i)
    load_row(rows.data, rows.dtype, job.fork.row_of(begin + i) * rows.stride, job.dim, room + i * job.dim);
  return room;
}

// The same in the dtype that they are held in, where they are whole vectors on one side of the fork.
FloatRows few_states(const FloatAttendJob& job, const FloatRows& rows, int64_t begin, int64_t n, float* room) {
  if (rows.dtype == Dtype::bfloat16 && job.dim % kLanes == 0 && !job.fork.parts(begin, n))
    return {static_cast<const uint16_t*>(rows.data) + job.fork.row_of(begin) * rows.stride, rows.dtype, rows.stride};
  int64_t stride;
  const float* data = open_states(job, rows, begin, n, room, &stride);
  return {data, Dtype::float32, stride};
}

void few_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, Arena arena) {
  const int64_t dim = job.dim, rows = part.rows(), record = dim + kRecordExtra;
  float *query = arena.take(kFewQueryRows * dim), *scores = arena.take(kFewQueryRows * kFewKeys);
  float* room = arena.take(kTileKeys * dim);
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = job.row(part.row_begin + r);
    for (int64_t i = 0; i < dim; ++i) query[r * dim + i] = from[i] * job.scaling;
    __builtin_memset(records + r * record, 0, size_t(record) * sizeof(float));
  }
  for (int64_t k = part.key_begin; k < part.key_end; k += kTileKeys) {
    const int64_t n = least<int64_t>(kTileKeys, part.key_end - k);
    const FloatRows keys = few_states(job, job.keys, k, n, room);
    const auto kernel = keys.dtype == Dtype::float32 ? few_scores_of<Dtype::float32> : few_scores_of<Dtype::bfloat16>;
    kernel(query, rows, keys, n, dim, scores + (k - part.key_begin));
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
    const FloatRows values = few_states(job, job.values, k, n, room);
    const auto kernel = values.dtype == Dtype::float32 ? few_values_of<Dtype::float32> : few_values_of<Dtype::bfloat16>;
    kernel(scores + (k - part.key_begin), rows, values, n, dim, records, record);
  }
}

// How many queries meet floats: as float32, whatever keys and values are held in.
struct FloatTiles : Singles {
  static void put_query(const float* from, int64_t dim, float scaling, int64_t r, float* panel) {
    for (int64_t i = 0; i < dim; ++i) panel[i * kPanel + r] = from[i] * scaling;
  }
  static const float* keys(const FloatAttendJob& job, int64_t begin, int64_t n, float* room, int64_t* stride) {
    return open_states(job, job.keys, begin, n, room, stride);
  }
  static const float* values(const FloatAttendJob& job, int64_t begin, int64_t n, float* room, int64_t* stride) {
    return open_states(job, job.values, begin, n, room, stride);
  }
  static const float* weights(float* p, int64_t) { return p; }
  static int64_t steps(int64_t n) { return n; }
};

#if defined(__AVX512F__)
uint32_t pair_of(float low, float high) { return bfloat_of(low) | uint32_t(bfloat_of(high)) << 16; }

// Two neighbours at a time, rounded to bfloat16: twice the products of an instruction, on processors that have it.
struct HalfTiles {
  using Number = uint32_t;
  using Lanes = __m512i;
  SPIKECONV_HD Lanes spread(Number x) { return _mm512_set1_epi32(int(x)); }
  SPIKECONV_HD Lanes lanes(const Number* from) { return _mm512_loadu_si512(from); }
  SPIKECONV_HD void add(Floats& sum, Lanes a, Lanes b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // compiled for processors without it too
  }
  static void put_query(const float* from, int64_t dim, float scaling, int64_t r, float* panel) {
    uint32_t* pairs = reinterpret_cast<uint32_t*>(panel);
    for (int64_t i = 0; i < dim / 2; ++i) pairs[i * kPanel + r] = pair_of(from[2 * i] * scaling, from[2 * i + 1] * scaling);
  }
  static const uint32_t* keys(const FloatAttendJob& job, int64_t begin, int64_t n, float* room, int64_t* stride) {
    const uint32_t* from = static_cast<const uint32_t*>(job.keys.data);
    *stride = job.keys.stride / 2;
    if (!job.fork.parts(begin, n)) return from + job.fork.row_of(begin) * *stride;
    uint32_t* pairs = reinterpret_cast<uint32_t*>(room);
    for (int64_t i = 0; i < n; ++i)
      __builtin_memcpy(pairs + i * (job.dim / 2), from + job.fork.row_of(begin + i) * *stride, size_t(job.dim) * 2);
    *stride = job.dim / 2;
    return pairs;
  }
  // Two keys' numbers become pairs; a last key without another meets zeros.
  static const uint32_t* values(const FloatAttendJob& job, int64_t begin, int64_t n, float* room, int64_t* stride) {
    uint32_t* pairs = reinterpret_cast<uint32_t*>(room);
    const auto row = [&](int64_t k) {
      return static_cast<const uint16_t*>(job.values.data) + job.fork.row_of(begin + k) * job.values.stride;
    };
    for (int64_t k = 0; k < n; k += 2) {
      const uint16_t *low = row(k), *high = row(k + 1 < n ? k + 1 : k);
      for (int64_t i = 0; i < job.dim; ++i)
        pairs[k / 2 * job.dim + i] = low[i] | uint32_t(k + 1 < n ? high[i] : 0) << 16;
    }
    *stride = job.dim;
    return pairs;
  }
  // Two keys' weights become pairs, where they lie.
  static const uint32_t* weights(float* p, int64_t n) {
    uint32_t* pairs = reinterpret_cast<uint32_t*>(p);
    const auto rounded = [](Ints x) { return x + 0x7fff + (x >> 16 & 1); };  // a NaN of arithmetic stays one
    for (int64_t k = 0; k < n; k += 2)
      for (int64_t v = 0; v < kPanel; v += kLanes) {
        const Ints low = rounded(load<Ints>(p + k * kPanel + v));
        const Ints high = k + 1 < n ? rounded(load<Ints>(p + (k + 1) * kPanel + v)) : Ints{};
        store(pairs + k / 2 * kPanel + v, (low >> 16 & 0xffff) | (high & int(0xffff0000)));
      }
    return pairs;
  }
  static int64_t steps(int64_t n) { return ceil_div(n, 2); }
};
#endif

template <class Tiles>
void many_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, Arena arena) {
  using Number = typename Tiles::Number;
  const int64_t dim = job.dim, rows = part.rows(), count = ceil_div(rows, kPanel);
  PanelState panels[ceil_div(kMostRows, kPanel)];
  const auto rows_of = [&](int64_t p) { return least<int64_t>(kPanel, rows - p * kPanel); };
  for (int64_t p = 0; p < count; ++p) {
    panels[p] = take_panel(dim, arena);
    for (int64_t r = 0; r < rows_of(p); ++r) {
      Tiles::put_query(job.row(part.row_begin + p * kPanel + r), dim, job.scaling, r, panels[p].query);
    }
  }
  float *key_room = arena.take(kTileKeys * dim), *value_room = arena.take(kTileKeys * dim);
  for (int64_t k = part.key_begin; k < part.key_end; k += kTileKeys) {
    const int64_t n = least<int64_t>(kTileKeys, part.key_end - k);
    int64_t key_stride, value_stride;
    const Number* keys = Tiles::keys(job, k, n, key_room, &key_stride);
    const Number* values = Tiles::values(job, k, n, value_room, &value_stride);
    for (int64_t p = 0; p < count; ++p) {
      PanelState& panel = panels[p];
      const int64_t first = part.row_begin + p * kPanel, last = first + rows_of(p) - 1;
      if (k > job.high(last) || k + n <= job.low(first)) continue;
      __builtin_memset(panel.scores, 0, size_t(n) * kPanel * sizeof(float));
      const Number* query = reinterpret_cast<const Number*>(panel.query);
      add_products<Tiles>(keys, n, key_stride, 1, query, Tiles::steps(dim), panel.scores);
      if (k + n - 1 > job.high(first) || k < job.low(last)) hide_scores(job, first, k, n, panel.scores);
      panel_softmax(panel, n, dim);
      const Number* weights = Tiles::weights(panel.scores, n);
      add_products<Tiles>(values, dim, 1, value_stride, weights, Tiles::steps(n), panel.sum);
    }
  }
  end_panels(panels, rows, dim, records);
}

void attend_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, float* scratch) {
  if (part.rows() <= kFewQueryRows) return few_floats(job, part, records, {scratch});
#if defined(__AVX512F__)
  static const bool has_halves = __builtin_cpu_supports("avx512bf16");
  if (has_halves && job.keys.dtype == Dtype::bfloat16) return many_floats<HalfTiles>(job, part, records, {scratch});
#endif
  many_floats<FloatTiles>(job, part, records, {scratch});
}
