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

// Scores [n][kPanel] of the keys from `key` on and the queries from `row` on: -∞ where a query does not see a key.
template <class Job>
void hide_scores(const Job& job, int64_t row, int64_t key, int64_t n, float* scores) {
  int32_t low[kPanel], high[kPanel];
  for (int i = 0; i < kPanel; ++i) low[i] = int32_t(job.low(row + i) - key), high[i] = int32_t(job.high(row + i) - key);
  for (int64_t i = 0; i < n; ++i)
    for (int v = 0; v < kPanel; v += kLanes) {
      float* at = scores + i * kPanel + v;
      const Ints k = splat_bits(uint32_t(i));
      store(at, (k < load<Ints>(low + v)) | (k > load<Ints>(high + v)) ? splat(-kInfinity) : load<Floats>(at));
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

// Records of the rows of some panels, their numbers in order.
void end_panels(const PanelState* panels, int64_t rows, int64_t dim, float* records) {
  for (int64_t r = 0; r < rows; ++r, records += dim + kRecordExtra) {
    const PanelState& panel = panels[r / kPanel];
    const int64_t lane = r % kPanel;
    for (int64_t i = 0; i < dim; ++i) records[i] = panel.sum[i * kPanel + lane];
    records[dim] = panel.peak[lane];
    records[dim + 1] = panel.total[lane];
  }
}
