// x → RMSNorm · γ → signs → Hadamard → clip → scale → counts, one token at a time, in cache.

// Sum of parts as a tree: the upper half of the next power of two is added onto the lower, until one is left.
template <class F>
float tree_sum(const float* x, int64_t n, float* tree, F part) {
  int64_t half = 1;
  while (half < n) half *= 2;
  for (int64_t i = 0; i < n; ++i) tree[i] = part(x[i]);
  for (int64_t filled = n; (half /= 2) > 0; filled = least(filled, half))
    for (int64_t i = 0; i < filled - half; ++i) tree[i] += tree[i + half];
  return tree[0];
}

float square_sum(const float* x, int64_t n, float* tree) {
  return tree_sum(x, n, tree, [](float v) { return v * v; });
}

float magnitude_sum(const float* x, int64_t n, float* tree) {
  return tree_sum(x, n, tree, [](float v) { return v < 0.0f ? -v : v; });
}

void normalize(float* x, int64_t n, const float* gamma, float epsilon, float* scratch) {
  const float mean = square_sum(x, n, scratch) / float(n);
  const float rsqrt = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (int64_t i = 0; i < n; ++i) x[i] = gamma[i] * (x[i] * rsqrt);
}

// Butterflies of a distance below the vector's width: every lane meets its partner `distance` lanes away.
template <int distance>
SPIKECONV_HD Floats butterfly_within(Floats v) {
  Ints partner, sign;
  for (int i = 0; i < kLanes; ++i) {
    partner[i] = i ^ distance;
    sign[i] = i & distance ? INT32_MIN : 0;
  }
#if defined(__clang__)
  Floats other;
  for (int i = 0; i < kLanes; ++i) other[i] = v[i ^ distance];
#else
  const Floats other = __builtin_shuffle(v, partner);
#endif
  return other + (Floats)((Ints)v ^ sign);
}

// In place, over rows of `power` contiguous floats; n is a multiple of power.
void butterflies(float* x, int64_t n, int64_t power) {
  int64_t distance = 1;
  if (power >= kLanes) {
    for (int64_t i = 0; i < n; i += kLanes) {
      Floats v = load<Floats>(x + i);
      v = butterfly_within<1>(v);
      v = butterfly_within<2>(v);
      if constexpr (kLanes > 4) v = butterfly_within<4>(v);
      if constexpr (kLanes > 8) v = butterfly_within<8>(v);
      store(x + i, v);
    }
    distance = kLanes;
    for (; distance * 2 < power; distance *= 4)  // two levels for one trip through memory
      for (int64_t row = 0; row < n; row += distance * 4)
        for (int64_t i = row; i < row + distance; i += kLanes) {
          Floats a = load<Floats>(x + i), b = load<Floats>(x + i + distance);
          Floats c = load<Floats>(x + i + 2 * distance), d = load<Floats>(x + i + 3 * distance);
          butterfly(a, b);
          butterfly(c, d);
          butterfly(a, c);
          butterfly(b, d);
          store(x + i, a);
          store(x + i + distance, b);
          store(x + i + 2 * distance, c);
          store(x + i + 3 * distance, d);
        }
    for (; distance < power; distance *= 2)
      for (int64_t row = 0; row < n; row += distance * 2)
        for (int64_t i = row; i < row + distance; i += kLanes) {
          Floats a = load<Floats>(x + i), b = load<Floats>(x + i + distance);
          butterfly(a, b);
          store(x + i, a);
          store(x + i + distance, b);
        }
    return;
  }
  for (; distance < power; distance *= 2)
    for (int64_t row = 0; row < n; row += distance * 2)
      for (int64_t i = row; i < row + distance; ++i) butterfly(x[i], x[i + distance]);
}

// `rows` outputs × `vectors` vectors of one base matrix.
template <int rows, int vectors>
SPIKECONV_HD void base_tile(const float* matrix, int64_t order, int64_t inner, const float* x, float* y) {
  Floats sum[rows][vectors];
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = splat(matrix[r * order]) * load<Floats>(x + v * kLanes);
  for (int64_t j = 1; j < order; ++j) {
    Floats in[vectors];
    SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) in[v] = load<Floats>(x + j * inner + v * kLanes);
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
      const Floats sign = splat(matrix[r * order + j]);
      SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = add_signed(sign, in[v], sum[r][v]);
    }
  }
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) store(y + r * inner + v * kLanes, sum[r][v]);
}

// `rows` outputs of a base matrix, all of `inner`.
template <int rows>
void base_rows(const float* matrix, int64_t order, int64_t inner, const float* x, float* y) {
  int64_t i = 0;
  if constexpr (rows > 1) {
    for (; i + 2 * kLanes <= inner; i += 2 * kLanes) base_tile<rows, 2>(matrix, order, inner, x + i, y + i);
    for (; i + kLanes <= inner; i += kLanes) base_tile<rows, 1>(matrix, order, inner, x + i, y + i);
  }
  for (; i < inner; ++i)
    for (int64_t r = 0; r < rows; ++r) y[r * inner + i] = base_sum(matrix + r * order, x + i, order, inner);
}

// y = (I ⊗ B ⊗ I) x over n floats, `inner` contiguous floats per entry of B. Many rows at a time keep the sums' latency
// busy and read x less often; every output is the same sum in the same order.
void base_pass(const float* matrix, int64_t order, int64_t inner, int64_t n, const float* x, float* y) {
  constexpr int kMost = kSumRegisters >= 16 ? 12 : 4;
  for (int64_t block = 0; block < n; block += order * inner) {
    int64_t o = 0;
    const auto rows = [&]<int count>() {
      for (; o + count <= order; o += count)
        base_rows<count>(matrix + o * order, order, inner, x + block, y + block + o * inner);
    };
    rows.template operator()<kMost>();
    rows.template operator()<4>();
    rows.template operator()<1>();
  }
}

// H D x of one token. `x` is overwritten; the result is in x or in other, without the factor 1/√m.
float* transform(const Transform& t, float* x, float* other) {
  for (int64_t i = 0; i < t.size; ++i) x[i] *= t.signs[i];
  butterflies(x, t.size, t.power);
  int64_t inner = t.order;
  for (int b = 0; b < t.base_count; ++b) {
    inner /= t.base_orders[b];
    base_pass(t.bases[b], t.base_orders[b], inner, t.size, x, other);
    float* swap = x;
    x = other;
    other = swap;
  }
  return x;
}

// Smallest and largest potential; NaN if one of them is.
struct Extremes {
  float low, high;
};

// The potential is scaled by the transform's factor and clipped on the way.
Extremes finish_potential(float* u, int64_t n, float factor, Clip clip, float threshold) {
  Floats low = splat(__builtin_inff()), high = -low;
  Ints nan{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats v = clip_potential(load<Floats>(u + i) * splat(factor), clip, splat(threshold));
    store(u + i, v);
    low = least(low, v);
    high = most(high, v);
    nan |= v != v;
  }
  float smallest = __builtin_inff(), largest = -smallest;
  bool broken = false;
  for (int lane = 0; lane < kLanes; ++lane) {
    smallest = least(smallest, low[lane]);
    largest = most(largest, high[lane]);
    broken |= nan[lane] != 0;
  }
  for (; i < n; ++i) {
    u[i] = clip_potential(u[i] * factor, clip, threshold);
    smallest = least(smallest, u[i]);
    largest = most(largest, u[i]);
    broken |= u[i] != u[i];
  }
  if (broken) smallest = largest = __builtin_nanf("");
  return {smallest, largest};
}

template <bool has_zone, class Count>
void write_counts(const float* u, int64_t n, TokenScale s, const CountRange& range, Count* counts) {
  const Floats scale = splat(s.scale), zero = splat(s.zero), low = splat(range.min), high = splat(range.max);
  const Floats dead = splat(s.dead), near = splat(s.near), one = splat(range.one_spike);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats v = load<Floats>(u + i);
    Floats whole = bucket(v, scale, zero, low, high);
    if constexpr (has_zone) whole = zoned(whole, v, dead, near, one);
    const Ints k = __builtin_convertvector(whole, Ints);
    for (int lane = 0; lane < kLanes; ++lane) counts[i + lane] = Count(k[lane]);
  }
  for (; i < n; ++i) {
    float whole = bucket(u[i], s.scale, s.zero, range.min, range.max);
    if constexpr (has_zone) whole = zoned(whole, u[i], s.dead, s.near, range.one_spike);
    counts[i] = Count(whole);
  }
}

template <class Count>
void write_counts(const float* u, int64_t n, TokenScale s, const CountRange& range, Count* counts) {
  if (s.dead > 0.0f)
    write_counts<true>(u, n, s, range, counts);
  else
    write_counts<false>(u, n, s, range, counts);
}

// A thread's own bins, [kHistogramCopies][size], at the end of its scratch.
uint64_t* own_bins(const Histogram& h, float* scratch, int64_t floats) {
  if (!h.bins) return nullptr;
  const uintptr_t end = uintptr_t(scratch + floats) / 8 * 8, bytes = size_t(kHistogramCopies * h.size) * 8;
  uint64_t* own = reinterpret_cast<uint64_t*>(end - bytes);
  __builtin_memset(own, 0, bytes);
  return own;
}

constexpr int64_t kFewBins = sizeof(ByteLanes);  // up to here a histogram is counted bin by bin

// One comparison of a whole vector per bin: with few bins far cheaper than a store per count. A lane counts to 255.
template <class Count>
void count_few(const Count* counts, int64_t n, const Histogram& h, uint64_t* own) {
  constexpr int64_t kBytes = sizeof(ByteLanes);
  for (int64_t bin = 0; bin < h.size; ++bin) {
    const ByteLanes wanted = ByteLanes{} + uint8_t(h.lowest + bin);
    uint64_t found = 0;
    for (int64_t i = 0; i < n; i += 255 * kBytes) {
      const int64_t end = least(n, i + 255 * kBytes);
      ByteLanes sum{};
      for (int64_t j = i; j < end; j += kBytes) sum -= (ByteLanes)(load<ByteLanes>(counts + j) == wanted);
      found += byte_sum(sum);
    }
    own[bin] += found;
  }
}

template <class Count>
void count_counts(const Count* counts, int64_t n, const Histogram& h, uint64_t* own) {
  int64_t done = 0;
  if constexpr (sizeof(Count) == 1)
    if (h.size <= kFewBins) {
      done = n / int64_t(sizeof(ByteLanes)) * int64_t(sizeof(ByteLanes));
      count_few(counts, done, h, own);
    }
  for (int64_t i = done; i < n; ++i) ++own[i % kHistogramCopies * h.size + (counts[i] - h.lowest)];
}

void add_bins(const Histogram& h, const uint64_t* own) {
  for (int64_t bin = 0; h.bins && bin < h.size; ++bin) {
    uint64_t sum = 0;
    for (int copy = 0; copy < kHistogramCopies; ++copy) sum += own[copy * h.size + bin];
    if (sum) __atomic_fetch_add(&h.bins[bin], int64_t(sum), __ATOMIC_RELAXED);
  }
}

void encode(const EncodeJob& job, int64_t token_begin, int64_t token_end, float* scratch) {
  const int64_t n = job.transform.size;
  float* gamma = scratch + 2 * n;
  uint64_t* own = own_bins(job.histogram, scratch, encode_scratch(job));
  const float threshold = job.threshold ? *job.threshold : 0;
  if (job.norm.weight) load_row(job.norm.weight, job.norm.dtype, 0, n, gamma);
  for (int64_t token = token_begin; token < token_end; ++token) {
    float *u = scratch, *other = scratch + n;
    load_row(job.x, job.dtype, token * n, n, u);
    if (job.norm.weight) normalize(u, n, gamma, job.norm.epsilon, other);
    if (job.transform.signs) u = transform(job.transform, u, other);
    if (job.rotated) {
      float* out = job.rotated + token * n;
      for (int64_t i = 0; i < n; ++i) out[i] = u[i] * job.transform.factor;
      continue;
    }
    const Extremes extremes = finish_potential(u, n, job.transform.factor, job.range.clip, threshold);
    float unit = 0;
    if (needs_unit(job.range)) {
      float* spare = u == scratch ? scratch + n : scratch;
      unit = job.range.by_mean ? magnitude_sum(u, n, spare) / float(n)
                               : __builtin_sqrtf(square_sum(u, n, spare) / float(n));
    }
    const TokenScale s = token_scale(extremes.low, extremes.high, job.range, unit);
    job.scale[token] = s.scale;
    job.zero[token] = whole_zero(s);
    if (job.wide) {
      int16_t* counts = static_cast<int16_t*>(job.counts) + token * n;
      write_counts(u, n, s, job.range, counts);
      if (own) count_counts(counts, n, job.histogram, own);
    } else {
      int8_t* counts = static_cast<int8_t*>(job.counts) + token * n;
      write_counts(u, n, s, job.range, counts);
      if (own) count_counts(counts, n, job.histogram, own);
    }
  }
  add_bins(job.histogram, own);
}
