// Softmax over keys, one query a lane, while keys come by: sums are relative to the highest score so far.

constexpr float kInfinity = __builtin_inff();

// Cuts a thread's scratch into pieces that begin at a cache line.
struct Arena {
  float* next;
  float* take(int64_t floats) {
    float* piece = next;
    next += ceil_div(floats, 16) * 16;
    return piece;
  }
};

// e^x for x <= 0, within 2e-7 of itself; 0 below -87. NaN stays.
SPIKECONV_HD Floats exp_negative(Floats x) {
  const Floats lowest = splat(-87.0f), magic = splat(12582912.0f);  // 1.5 · 2^23: see round_even
  const Floats inside = x < lowest ? lowest : x;
  const Floats shifted = multiply_add(inside, splat(1.44269504f), magic), n = shifted - magic;
  Floats r = multiply_add(n, splat(-0.693359375f), inside);  // ln 2 in two parts
  r = multiply_add(n, splat(2.12194440e-4f), r);
  Floats p = multiply_add(r, splat(1.9875691500e-4f), splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + splat(1.0f);
  const Floats power = (Floats)(((Ints)shifted - (Ints)magic + 127) << 23);
  return x < lowest ? Floats{} : p * power;
}

// What scores are taken relative to: the peak, or 0 where all are -∞.
SPIKECONV_HD Floats reference_of(Floats peak) { return peak == splat(-kInfinity) ? Floats{} : peak; }

constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;               // queries of a panel

// First and last key that each query of a panel sees, as 32-bit numbers.
struct Sight {
  Ints low[kPanelVectors], high[kPanelVectors];
};

// What queries [row, row + kPanel) of a job see, `key` being number 0.
template <class Job>
Sight sight_of(const Job& job, int64_t row, int64_t key) {
  int32_t low[kPanel], high[kPanel];
  for (int i = 0; i < kPanel; ++i) low[i] = int32_t(job.low(row + i) - key), high[i] = int32_t(job.high(row + i) - key);
  Sight sight;
  for (int v = 0; v < kPanelVectors; ++v)
    sight.low[v] = load<Ints>(low + v * kLanes), sight.high[v] = load<Ints>(high + v * kLanes);
  return sight;
}

// Scores [n][kPanel] of the keys from number 0 on: -∞ where they are not seen.
void hide_scores(const Sight& sight, int64_t n, float* scores) {
  for (int64_t i = 0; i < n; ++i)
    for (int v = 0; v < kPanelVectors; ++v) {
      float* at = scores + i * kPanel + v * kLanes;
      const Ints k = splat_bits(uint32_t(i));
      store(at, (k < sight.low[v]) | (k > sight.high[v]) ? splat(-kInfinity) : load<Floats>(at));
    }
}

// One panel's queries, state and working memory.
struct PanelState {
  float *query, *sum;   // [positions of all groups][kPanel]; Σ p v
  float *peak, *total;  // [kPanel]
  float* scores;        // [kTileKeys][kPanel]
  bool live;            // whether the tile of keys means anything to these queries
};

// An empty panel of so many positions; scores are held elsewhere.
PanelState take_panel(int64_t positions, float* scores, Arena& arena) {
  PanelState panel{nullptr, arena.take(positions * kPanel), arena.take(kPanel), arena.take(kPanel), scores, true};
  __builtin_memset(panel.sum, 0, size_t(positions * kPanel) * sizeof(float));
  __builtin_memset(panel.total, 0, kPanel * sizeof(float));
  for (int i = 0; i < kPanel; ++i) panel.peak[i] = -kInfinity;
  return panel;
}

// Scores → p = e^(score - peak), sums so far relative to the new peak.
void panel_softmax(PanelState& panel, int64_t keys, int64_t positions) {
  for (int v = 0; v < kPanel; v += kLanes) {
    const Floats before = load<Floats>(panel.peak + v);
    Floats peak = before, sum{};
    for (int64_t i = 0; i < keys; ++i) peak = most(peak, load<Floats>(panel.scores + i * kPanel + v));
    const Floats reference = reference_of(peak);
    for (int64_t i = 0; i < keys; ++i) {
      float* at = panel.scores + i * kPanel + v;
      const Floats p = exp_negative(load<Floats>(at) - reference);
      store(at, p);
      sum += p;
    }
    const Floats shrink = exp_negative(before - reference);
    store(panel.peak + v, peak);
    store(panel.total + v, multiply_add(load<Floats>(panel.total + v), shrink, sum));
    bool same = true;
    for (int lane = 0; lane < kLanes; ++lane) same &= shrink[lane] == 1;
    for (int64_t i = 0; !same && i < positions; ++i)
      store(panel.sum + i * kPanel + v, load<Floats>(panel.sum + i * kPanel + v) * shrink);
  }
}
