// The float parts of recurrent models (RWKV). A channel, or a token's row, is computed in one order whatever else is.

// 1 / (1 + e^-x), from e^-|x|, which does not overflow.
SPIKECONV_HD Floats sigmoid(Floats x) {
  const Floats one = splat(1.0f), small = exp_negative(x < Floats{} ? x : -x);
  return (x < Floats{} ? small : one) / (one + small);
}

// Σ part(x_i), in four sums.
template <class F>
float row_sum(const float* x, int64_t n, F part) {
  Floats sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    SPIKECONV_UNROLL for (int v = 0; v < 4; ++v) sum[v] += part(load<Floats>(x + i + v * kLanes));
  for (; i + kLanes <= n; i += kLanes) sum[0] += part(load<Floats>(x + i));
  float rest = 0;
  for (; i < n; ++i) rest += part(splat(x[i]))[0];
  return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

void layer_norm(const float* x, int64_t n, const float* weight, const float* bias, float epsilon, float* out) {
  const float mean = row_sum(x, n, [](Floats v) { return v; }) / float(n);
  const Floats middle = splat(mean);
  const float variance = row_sum(x, n, [=](Floats v) { return (v - middle) * (v - middle); }) / float(n);
  const Floats scale = splat(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats v = (load_floats(x + i, n - i) - middle) * scale;
    store_first(out + i, multiply_add(v, load_floats(weight + i, n - i), load_floats(bias + i, n - i)), n - i);
  }
}

// From the nearer end, as torch's lerp.
void blend(const float* before, const float* x, const float* mix, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats from = load_floats(before + i, n - i), to = load_floats(x + i, n - i), m = load_floats(mix + i, n - i);
    const auto low = (m < splat(0.0f) ? -m : m) < splat(0.5f);
    store_first(out + i, multiply_add(low ? m : m - splat(1.0f), to - from, low ? from : to), n - i);
  }
}

void prepare(float* x, const float* center, const float* balance, int64_t n) {
  if (center)
    for (int64_t i = 0; i < n; ++i) x[i] -= center[i];
  if (balance)
    for (int64_t i = 0; i < n; ++i) x[i] *= balance[i];
}

void relu_squared(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats v = load_floats(x + i, n - i), positive = v < Floats{} ? Floats{} : v;  // NaN stays
    store_first(x + i, positive * positive, n - i);
  }
}

void add_gated(float* to, const float* receptance, const float* value, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats gated = sigmoid(load_floats(receptance + i, n - i)) * load_floats(value + i, n - i);
    store_first(to + i, load_floats(to + i, n - i) + gated, n - i);
  }
}

// Numerator and denominator, to be scaled by e^exponent.
struct WkvSums {
  Floats numerator, denominator, exponent;
};

// Sums and e^key · value. Of the two powers the larger one is 1.
SPIKECONV_HD WkvSums added(const WkvSums& s, Floats key, Floats value) {
  const Floats over = s.exponent - key, one = splat(1.0f), small = exp_negative(over < Floats{} ? over : -over);
  const auto grows = over < Floats{};
  const Floats old = grows ? small : one, more = grows ? one : small;
  return {multiply_add(more, value, s.numerator * old), multiply_add(s.denominator, old, more), grows ? key : s.exponent};
}

// `vectors` beside each other, of which the last has `last` channels.
template <int vectors>
void wkv_channels(const WkvJob& job, int64_t begin, int64_t last) {
  const auto lanes = [=](int v) { return v == vectors - 1 ? last : int64_t(kLanes); };
  const auto at = [=](int v) { return begin + v * kLanes; };
  WkvSums state[vectors];
  Floats decay[vectors], first[vectors];
  for (int v = 0; v < vectors; ++v) {
    state[v] = {load_floats(job.numerator + at(v), lanes(v)), load_floats(job.denominator + at(v), lanes(v)),
                load_floats(job.exponent + at(v), lanes(v))};
    decay[v] = load_floats(job.decay + at(v), lanes(v));
    first[v] = load_floats(job.first + at(v), lanes(v));
  }
  for (int64_t t = 0; t < job.tokens; ++t)
    SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) {
      const int64_t place = t * job.stride + at(v);
      const Floats key = load_floats(job.key + place, lanes(v)), value = load_floats(job.value + place, lanes(v));
      const WkvSums now = added(state[v], first[v] + key, value);
      state[v].exponent -= decay[v];
      state[v] = added(state[v], key, value);
      const Floats receptance = sigmoid(load_floats(job.receptance + place, lanes(v)));
      store_first(job.receptance + place, receptance * (now.numerator / now.denominator), lanes(v));
    }
  for (int v = 0; v < vectors; ++v) {
    store_first(job.numerator + at(v), state[v].numerator, lanes(v));
    store_first(job.denominator + at(v), state[v].denominator, lanes(v));
    store_first(job.exponent + at(v), state[v].exponent, lanes(v));
  }
}

void wkv(const WkvJob& job, int64_t begin, int64_t end) {
  for (; begin + 2 * kLanes <= end; begin += 2 * kLanes) wkv_channels<2>(job, begin, kLanes);
  for (; begin < end; begin += kLanes) wkv_channels<1>(job, begin, least<int64_t>(kLanes, end - begin));
}

void blend_by(const float* before, const float* x, const float* mix, const float* more, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats to = load_floats(before + i, n - i), from = load_floats(x + i, n - i);
    const Floats by = load_floats(mix + i, n - i) + load_floats(more + i, n - i);
    store_first(out + i, multiply_add(to - from, by, from), n - i);
  }
}

void tanh_row(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats v = load_floats(x + i, n - i), one = splat(1.0f);
    const Floats small = exp_negative((v < Floats{} ? v : -v) * splat(2.0f)), size = (one - small) / (one + small);
    store_first(x + i, v < Floats{} ? -size : size, n - i);
  }
}

void decay(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats v = load_floats(x + i, n - i), small = exp_negative(v < Floats{} ? v : -v);
    store_first(x + i, exp_negative(v < Floats{} ? -small : splat(-1.0f) / small), n - i);
  }
}

// Some columns of the state, and of what comes out.
template <int vectors>
void wkv_columns(const MatrixWkvJob& job, int64_t begin, int64_t last) {
  const auto lanes = [=](int v) { return v == vectors - 1 ? last : int64_t(kLanes); };
  for (int64_t t = 0; t < job.tokens; ++t) {
    const float *r = job.receptance + t * job.stride, *k = job.key + t * job.stride, *w = job.decay + t * job.stride;
    Floats value[vectors], y[vectors] = {};
    for (int v = 0; v < vectors; ++v) value[v] = load_floats(job.value + t * job.stride + begin + v * kLanes, lanes(v));
    float own = 0;
    for (int64_t i = 0; i < job.size; ++i) {
      own += r[i] * job.first[i] * k[i];
      SPIKECONV_UNROLL for (int v = 0; v < vectors; ++v) {
        float* place = job.state + i * job.size + begin + v * kLanes;
        const Floats state = load_floats(place, lanes(v));
        y[v] = multiply_add(splat(r[i]), state, y[v]);
        store_first(place, multiply_add(splat(k[i]), value[v], splat(w[i]) * state), lanes(v));
      }
    }
    for (int v = 0; v < vectors; ++v)
      store_first(job.out + t * job.stride + begin + v * kLanes, multiply_add(splat(own), value[v], y[v]), lanes(v));
  }
}

void wkv_matrix(const MatrixWkvJob& job) {
  int64_t begin = 0;
  for (; begin + 4 * kLanes <= job.size; begin += 4 * kLanes) wkv_columns<4>(job, begin, kLanes);
  for (; begin < job.size; begin += kLanes) wkv_columns<1>(job, begin, least<int64_t>(kLanes, job.size - begin));
}
