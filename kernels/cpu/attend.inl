// Attention over rows of counts: scores = s · (q · k - z Σ q), y = Σ p s (v - z), for some queries and some keys.
//
// Few queries (decoding) use the counts in registers, straight out of the rows. For many (a prompt) tiles of keys and
// values become floats, in the first-level cache, and meet panels of queries, one query a lane.

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

const uint8_t* rows_of(const RowCache& cache, const AttendPart& part) {
  return cache.data + part.batch * cache.batch_stride + part.key_head * cache.head_stride;
}

void load_query(const AttendJob& job, const AttendPart& part, int64_t query, float* out) {
  const int64_t n = job.layout.head_dim;
  const int64_t row = (part.batch * job.key_heads + part.key_head) * job.queries() + part.query_begin + query;
  load_row(job.query, job.dtype, row * n, n, out);
}

// A query's scores before anything is added to them: the mask of keys [key, key + n).
void load_mask(const AttendJob& job, const AttendPart& part, int64_t query, int64_t key, int64_t n, float* out) {
  if (!job.mask.data) {
    __builtin_memset(out, 0, size_t(n) * sizeof(float));
    return;
  }
  const int64_t row = part.query_begin + query, head = part.key_head * job.repeats + row / job.tokens;
  const int64_t at = part.batch * job.mask.batch_stride + head * job.mask.head_stride +
                     row % job.tokens * job.mask.token_stride + key;
  load_row(job.mask.data, job.mask.dtype, at, n, out);
}

// Scales, times a factor, and offsets of one group of some rows; zeros up to a whole vector.
void load_scales(const uint8_t* rows, int64_t stride, int64_t n, const RowLayout& layout, int64_t group, float factor,
                 float* scale, float* offset) {
  for (int64_t i = 0; i < n; ++i) scale[i] = row_scale(rows + i * stride, layout, group) * factor;
  if (layout.symmetric)
    for (int64_t i = 0; i < n; ++i) offset[i] = float(weight_offset(layout.bits));
  else
    for (int64_t i = 0; i < n; ++i) offset[i] = float(row_zero(rows + i * stride, layout, group));
  for (int64_t i = n; i % kLanes; ++i) scale[i] = offset[i] = 0;
}

// Room for the positions of any group, and a vector behind them.
int64_t positions_stride(const RowLayout& layout) {
  int64_t words = 0;
  for (int64_t g = 0; g < row_groups(layout); ++g) words = most(words, group_words(layout, g).count);
  return words * kWordInputs + kLanes;
}

// One group of some rows: scales, offsets, and room for the counts less their offsets.
struct Tile {
  float *scale, *offset, *data;
  int64_t stride;
};

Tile take_tile(const RowLayout& layout, Arena& arena) {
  const int64_t stride = positions_stride(layout);
  return {arena.take(kTileKeys), arena.take(kTileKeys), arena.take(kTileKeys * stride), stride};
}

// Rows [begin, begin + n) of a group; their scales, times a factor, and offsets go into the tile.
RowSpan open_rows(const AttendJob& job, const AttendPart& part, const RowCache& cache, int64_t begin, int64_t n,
                  int64_t group, float factor, const Tile& tile) {
  const GroupWords words = group_words(job.layout, group);
  const uint8_t* rows = rows_of(cache, part) + begin * cache.stride;
  load_scales(rows, cache.stride, n, job.layout, group, factor, tile.scale, tile.offset);
  return {rows + words.first * job.layout.bits, cache.stride, n, words.count};
}

// ---- few queries --------------------------------------------------------------------------------------------------

// Queries or sums of some queries, by group and in the order of positions, each followed by a vector of zeros.
struct Positions {
  float* data;
  int64_t queries, stride;
  float* at(int64_t group, int64_t query) const { return data + (group * queries + query) * stride; }
};

Positions take_positions(const RowLayout& layout, int64_t queries, Arena& arena) {
  Positions p{nullptr, queries, positions_stride(layout)};
  const int64_t floats = row_groups(layout) * queries * p.stride;
  p.data = arena.take(floats);
  __builtin_memset(p.data, 0, size_t(floats) * sizeof(float));
  return p;
}

// The rows as products take them; offsets are off decoded ones.
RowSpan readable(const RowSpan& rows, const Reader& reader, const Tile& tile) {
  if (reader.direct) return rows;
  reader.decode(rows, tile.offset, tile.data, tile.stride);
  __builtin_memset(tile.offset, 0, kTileKeys * sizeof(float));
  const int64_t stride = tile.stride * int64_t(sizeof(float));
  return {reinterpret_cast<const uint8_t*>(tile.data), stride, rows.count, rows.words};
}

// scores += scale · (dots - offset · Σ q)
void add_scores(const float* dots, const float* scale, const float* offset, float query_sum, int64_t n, float* scores) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats dot = load<Floats>(dots + i) - load<Floats>(offset + i) * splat(query_sum);
    store(scores + i, multiply_add(dot, load<Floats>(scale + i), load<Floats>(scores + i)));
  }
}

// Scores [queries][stride] of all keys of a part.
void few_scores(const AttendJob& job, const AttendPart& part, float* scores, int64_t stride, Arena arena) {
  const RowLayout& layout = job.layout;
  const Reader& reader = reader_of(layout.bits);
  const int64_t queries = part.queries(), groups = row_groups(layout);
  const Positions q = take_positions(layout, queries, arena);
  float *sums = arena.take(groups * queries), *query = arena.take(layout.head_dim);
  for (int64_t r = 0; r < queries; ++r) {
    load_query(job, part, r, query);
    load_mask(job, part, r, part.key_begin, part.keys(), scores + r * stride);
    for (int64_t g = 0; g < groups; ++g) {
      const GroupWords words = group_words(layout, g);
      float sum = 0;
      for (int64_t i = 0; i < layout.group; ++i) {
        const float x = query[g * layout.group + i];
        q.at(g, r)[position_of(words, i)] = x / reader.unit[field_of(words, i)];
        sum += x;
      }
      sums[g * queries + r] = sum;
    }
  }
  const Tile tile = take_tile(layout, arena);
  float* dots = arena.take(kQueries * kTileKeys);
  for (int64_t begin = 0; begin < part.keys(); begin += kTileKeys) {
    const int64_t n = least(kTileKeys, part.keys() - begin);
    for (int64_t g = 0; g < groups; ++g) {
      const RowSpan rows = open_rows(job, part, job.keys, part.key_begin + begin, n, g, job.scaling, tile);
      const RowSpan keys = readable(rows, reader, tile);
      for (int64_t r = 0; r < queries; r += kQueries) {
        const int64_t some = least<int64_t>(kQueries, queries - r);
        reader.dots[some - 1](keys, q.at(g, r), q.stride, dots, kTileKeys);
        for (int64_t i = 0; i < some; ++i)
          add_scores(dots + i * kTileKeys, tile.scale, tile.offset, sums[g * queries + r + i], n,
                     scores + (r + i) * stride + begin);
      }
    }
  }
}

struct Softmax {
  float peak, sum;
};

// Scores → e^(score - peak), zeros up to a whole vector.
Softmax few_softmax(float* scores, int64_t n) {
  for (int64_t i = n; i % kLanes; ++i) scores[i] = -kInfinity;
  Floats high = splat(-kInfinity), sum{};
  for (int64_t i = 0; i < n; i += kLanes) high = most(high, load<Floats>(scores + i));
  float peak = -kInfinity;
  for (int lane = 0; lane < kLanes; ++lane) peak = most(peak, high[lane]);
  const Floats reference = reference_of(splat(peak));
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats p = exp_negative(load<Floats>(scores + i) - reference);
    store(scores + i, p);
    sum += p;
  }
  return {peak, lane_sum(sum)};
}

// weights = p · scale, zeros up to a whole vector; returns Σ weight · offset.
float weigh_scales(const float* p, const float* scale, const float* offset, int64_t n, float* weights) {
  Floats sum{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats w = load<Floats>(p + i) * load<Floats>(scale + i);
    store(weights + i, w);
    sum = multiply_add(w, load<Floats>(offset + i), sum);
  }
  return lane_sum(sum);
}

// Σ p v of all values of a part, into the records.
void few_means(const AttendJob& job, const AttendPart& part, const float* p, int64_t stride, float* records,
               Arena arena) {
  const RowLayout& layout = job.layout;
  const Reader& reader = reader_of(layout.bits);
  const int64_t queries = part.queries(), groups = row_groups(layout);
  const Positions sums = take_positions(layout, queries, arena);
  const Tile tile = take_tile(layout, arena);
  float* weights = arena.take(kQueries * kTileKeys);
  for (int64_t begin = 0; begin < part.keys(); begin += kTileKeys) {
    const int64_t n = least(kTileKeys, part.keys() - begin);
    for (int64_t g = 0; g < groups; ++g) {
      const RowSpan rows = open_rows(job, part, job.values, part.key_begin + begin, n, g, 1, tile);
      const RowSpan values = readable(rows, reader, tile);
      for (int64_t r = 0; r < queries; r += kQueries) {
        const int64_t some = least<int64_t>(kQueries, queries - r);
        float less[kQueries];
        for (int64_t i = 0; i < some; ++i)
          less[i] = weigh_scales(p + (r + i) * stride + begin, tile.scale, tile.offset, n, weights + i * kTileKeys);
        reader.weigh[some - 1](values, weights, kTileKeys, sums.at(g, r), sums.stride);
        // Tile by tile: Σ weight · count and Σ weight · offset would grow with the keys, and their difference does not.
        for (int64_t i = 0; i < some; ++i)
          for (int64_t at = 0; at < rows.words * kWordInputs; ++at) sums.at(g, r + i)[at] -= less[i];
      }
    }
  }
  for (int64_t r = 0; r < queries; ++r)
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t i = 0; i < layout.group; ++i)
        records[r * (layout.head_dim + kRecordExtra) + g * layout.group + i] =
            sums.at(g, r)[position_of(group_words(layout, g), i)];
}

void attend_few(const AttendJob& job, const AttendPart& part, float* records, Arena arena) {
  const int64_t stride = ceil_div(part.keys(), kLanes) * kLanes, n = job.layout.head_dim;
  float* scores = arena.take(part.queries() * stride);
  few_scores(job, part, scores, stride, arena);
  for (int64_t r = 0; r < part.queries(); ++r) {
    const Softmax softmax = few_softmax(scores + r * stride, part.keys());
    records[r * (n + kRecordExtra) + n] = softmax.peak;
    records[r * (n + kRecordExtra) + n + 1] = softmax.sum;
  }
  few_means(job, part, scores, stride, records, arena);
}

// ---- many queries -------------------------------------------------------------------------------------------------

constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;               // queries of a panel
constexpr int kProductRows = kSumRegisters / kPanelVectors;  // rows of a product whose sums stay in registers
constexpr float kNever = -1e30f;                             // a mask that leaves nothing of a score

// c[row][query] += Σ_i a[row · a_row + i · a_step] · b[i][query]
template <int rows>
void add_product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t steps, float* c) {
  Floats sum[rows][kPanelVectors];
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) sum[r][v] = load<Floats>(c + r * kPanel + v * kLanes);
  for (int64_t i = 0; i < steps; ++i, a += a_step, b += kPanel) {
    Floats in[kPanelVectors];
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) in[v] = load<Floats>(b + v * kLanes);
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
      const Floats x = splat(a[r * a_row]);
      SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) sum[r][v] = multiply_add(x, in[v], sum[r][v]);
    }
  }
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) store(c + r * kPanel + v * kLanes, sum[r][v]);
}

typedef void (*AddProduct)(const float*, int64_t, int64_t, const float*, int64_t, float*);

template <int rows>
AddProduct add_product_of(int64_t wanted) {
  if constexpr (rows == 0)
    return nullptr;
  else
    return wanted == rows ? add_product<rows> : add_product_of<rows - 1>(wanted);
}

void add_products(const float* a, int64_t rows, int64_t a_row, int64_t a_step, const float* b, int64_t steps, float* c) {
  for (int64_t r = 0; r < rows; r += kProductRows)
    add_product_of<kProductRows>(least<int64_t>(kProductRows, rows - r))(a + r * a_row, a_row, a_step, b, steps,
                                                                        c + r * kPanel);
}

// One panel's queries, state and working memory.
struct PanelState {
  float *query, *sum;   // [positions of all groups][kPanel]; Σ p v
  float *peak, *total;  // [kPanel]
  float* scores;        // [kTileKeys][kPanel]
  bool live;            // whether the tile of keys means anything to these queries
};

// Where a group's positions begin among those of all groups.
int64_t positions_before(const RowLayout& layout, int64_t group) {
  int64_t words = 0;
  for (int64_t g = 0; g < group; ++g) words += group_words(layout, g).count;
  return words * kWordInputs;
}

// Queries [first, first + n) become columns of a panel.
PanelState begin_panel(const AttendJob& job, const AttendPart& part, int64_t first, int64_t n, Arena& arena) {
  const RowLayout& layout = job.layout;
  const int64_t floats = positions_before(layout, row_groups(layout)) * kPanel;
  PanelState panel{arena.take(floats), arena.take(floats),           arena.take(kPanel),
                   arena.take(kPanel), arena.take(kTileKeys * kPanel), true};
  __builtin_memset(panel.query, 0, size_t(floats) * sizeof(float));
  __builtin_memset(panel.sum, 0, size_t(floats) * sizeof(float));
  __builtin_memset(panel.total, 0, kPanel * sizeof(float));
  for (int i = 0; i < kPanel; ++i) panel.peak[i] = -kInfinity;
  Arena rest = arena;
  float* query = rest.take(layout.head_dim);
  for (int64_t r = 0; r < n; ++r) {
    load_query(job, part, first + r, query);
    for (int64_t g = 0; g < row_groups(layout); ++g) {
      const GroupWords words = group_words(layout, g);
      float* column = panel.query + positions_before(layout, g) * kPanel + r;
      for (int64_t i = 0; i < layout.group; ++i) column[position_of(words, i) * kPanel] = query[g * layout.group + i];
    }
  }
  return panel;
}

// Scores begin with the mask. The panel sleeps if all of it is masked while every query has met a key that is not:
// nothing would be left of these.
void begin_scores(const AttendJob& job, const AttendPart& part, int64_t first, int64_t n, int64_t key, int64_t keys,
                  PanelState& panel) {
  float mask[kTileKeys], highest = job.mask.data ? -kInfinity : 0, lowest_peak = kInfinity;
  if (!job.mask.data || n < kPanel) __builtin_memset(panel.scores, 0, size_t(keys) * kPanel * sizeof(float));
  for (int64_t r = 0; job.mask.data && r < n; ++r) {
    load_mask(job, part, first + r, key, keys, mask);
    for (int64_t i = 0; i < keys; ++i) {
      panel.scores[i * kPanel + r] = mask[i];
      highest = most(highest, mask[i]);
    }
    lowest_peak = least(lowest_peak, panel.peak[r]);
  }
  panel.live = highest > kNever || !(lowest_peak > kNever / 10);
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

// `to`[row][query] = factor[row] · from[row][query] (+ to)
template <bool add>
void scale_rows(const float* from, const float* factor, int64_t rows, float* to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int v = 0; v < kPanel; v += kLanes) {
      const int64_t at = i * kPanel + v;
      const Floats base = add ? load<Floats>(to + at) : Floats{};
      store(to + at, multiply_add(load<Floats>(from + at), splat(factor[i]), base));
    }
}

void end_panel(const AttendJob& job, const PanelState& panel, int64_t n, float* records) {
  const RowLayout& layout = job.layout;
  for (int64_t r = 0; r < n; ++r) {
    float* record = records + r * (layout.head_dim + kRecordExtra);
    for (int64_t g = 0; g < row_groups(layout); ++g) {
      const GroupWords words = group_words(layout, g);
      const float* column = panel.sum + positions_before(layout, g) * kPanel + r;
      for (int64_t i = 0; i < layout.group; ++i) record[g * layout.group + i] = column[position_of(words, i) * kPanel];
    }
    record[layout.head_dim] = panel.peak[r];
    record[layout.head_dim + 1] = panel.total[r];
  }
}

void attend_many(const AttendJob& job, const AttendPart& part, float* records, Arena arena) {
  const RowLayout& layout = job.layout;
  const int64_t groups = row_groups(layout), queries = part.queries(), all = positions_before(layout, groups);
  const int64_t count = ceil_div(queries, kPanel);
  PanelState panels[ceil_div(kMostQueries, kPanel)];
  const auto queries_of = [&](int64_t p) { return least<int64_t>(kPanel, queries - p * kPanel); };
  for (int64_t p = 0; p < count; ++p) panels[p] = begin_panel(job, part, p * kPanel, queries_of(p), arena);
  const Reader& reader = reader_of(layout.bits);
  const Tile tile = take_tile(layout, arena);
  float* product = arena.take(kTileKeys * kPanel);
  for (int64_t key = part.key_begin; key < part.key_end; key += kTileKeys) {
    const int64_t n = least(kTileKeys, part.key_end - key);
    bool any = false;
    for (int64_t p = 0; p < count; ++p) {
      begin_scores(job, part, p * kPanel, queries_of(p), key, n, panels[p]);
      any |= panels[p].live;
    }
    if (!any) continue;
    for (int64_t g = 0; g < groups; ++g) {
      const RowSpan keys = open_rows(job, part, job.keys, key, n, g, job.scaling, tile);
      const int64_t first = positions_before(layout, g), positions = keys.words * kWordInputs;
      reader.decode(keys, tile.offset, tile.data, tile.stride);
      for (int64_t p = 0; p < count; ++p) {
        if (!panels[p].live) continue;
        __builtin_memset(product, 0, size_t(n) * kPanel * sizeof(float));
        add_products(tile.data, n, tile.stride, 1, panels[p].query + first * kPanel, positions, product);
        scale_rows<true>(product, tile.scale, n, panels[p].scores);
      }
    }
    for (int64_t p = 0; p < count; ++p)
      if (panels[p].live) panel_softmax(panels[p], n, all);
    for (int64_t g = 0; g < groups; ++g) {
      const RowSpan values = open_rows(job, part, job.values, key, n, g, 1, tile);
      const int64_t first = positions_before(layout, g), positions = values.words * kWordInputs;
      reader.decode(values, tile.offset, tile.data, tile.stride);
      for (int64_t p = 0; p < count; ++p) {
        if (!panels[p].live) continue;
        scale_rows<false>(panels[p].scores, tile.scale, n, product);
        add_products(tile.data, positions, 1, tile.stride, product, n, panels[p].sum + first * kPanel);
      }
    }
  }
  for (int64_t p = 0; p < count; ++p)
    end_panel(job, panels[p], queries_of(p), records + p * kPanel * (layout.head_dim + kRecordExtra));
}

void attend(const AttendJob& job, const AttendPart& part, float* records, float* scratch) {
  (part.queries() <= kFewQueries ? attend_few : attend_many)(job, part, records, {scratch});
}

// y = Σ e^(peak - highest peak) · (Σ p v) / Σ e^(peak - highest peak) · (Σ p)
void merge(const float* records, int64_t stride, int64_t count, int64_t head_dim, float* output) {
  float highest = -kInfinity, sum = 0;
  for (int64_t i = 0; i < count; ++i) highest = most(highest, records[i * stride + head_dim]);
  const Floats reference = reference_of(splat(highest));
  for (int64_t i = 0; i < count; ++i) {
    const float* record = records + i * stride;
    const float factor = exp_negative(splat(record[head_dim]) - reference)[0];
    sum += factor * record[head_dim + 1];
    for (int64_t d = 0; d < head_dim; ++d) output[d] = (i ? output[d] : 0) + factor * record[d];
  }
  for (int64_t d = 0; d < head_dim; ++d) output[d] /= sum;
}
