// Many queries (a prompt): tiles of keys and values become floats, in the first-level cache, and meet panels of
// queries, one query a lane. Softmax is online: sums are relative to the highest score so far.

constexpr int kProductRows = kSumRegisters / kPanelVectors;  // rows of a product whose sums stay in registers
constexpr float kNever = -1e30f;                             // a mask that leaves nothing of a score

// What is multiplied: numbers one at a time.
struct Singles {
  using Number = float;
  using Lanes = Floats;
  SPIKECONV_HD Lanes spread(Number x) { return splat(x); }
  SPIKECONV_HD Lanes lanes(const Number* from) { return load<Floats>(from); }
  SPIKECONV_HD void add(Floats& sum, Lanes a, Lanes b) { sum = multiply_add(a, b, sum); }
};

// c[row][query] += Σ_i a[row · a_row + i · a_step] · b[i][query]
template <class Terms, int rows>
void add_product(const typename Terms::Number* a, int64_t a_row, int64_t a_step, const typename Terms::Number* b,
                 int64_t steps, float* c) {
  Floats sum[rows][kPanelVectors];
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) sum[r][v] = load<Floats>(c + r * kPanel + v * kLanes);
  for (int64_t i = 0; i < steps; ++i, a += a_step, b += kPanel) {
    typename Terms::Lanes in[kPanelVectors];
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) in[v] = Terms::lanes(b + v * kLanes);
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
      const typename Terms::Lanes x = Terms::spread(a[r * a_row]);
      SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) Terms::add(sum[r][v], x, in[v]);
    }
  }
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int v = 0; v < kPanelVectors; ++v) store(c + r * kPanel + v * kLanes, sum[r][v]);
}

template <class Terms>
using AddProduct = void (*)(const typename Terms::Number*, int64_t, int64_t, const typename Terms::Number*, int64_t,
                            float*);

template <class Terms, int rows>
AddProduct<Terms> add_product_of(int64_t wanted) {
  if constexpr (rows == 0)
    return nullptr;
  else
    return wanted == rows ? add_product<Terms, rows> : add_product_of<Terms, rows - 1>(wanted);
}

template <class Terms = Singles>
void add_products(const typename Terms::Number* a, int64_t rows, int64_t a_row, int64_t a_step,
                  const typename Terms::Number* b, int64_t steps, float* c) {
  for (int64_t r = 0; r < rows; r += kProductRows)
    add_product_of<Terms, kProductRows>(least<int64_t>(kProductRows, rows - r))(a + r * a_row, a_row, a_step, b, steps,
                                                                               c + r * kPanel);
}

// Where a group's positions begin among those of all groups.
int64_t positions_before(const RowShape& shape, int64_t group) {
  int64_t words = 0;
  for (int64_t g = 0; g < group; ++g) words += group_words(shape, g).count;
  return words * kWordInputs;
}

// The same with queries and scores of its own.
PanelState take_panel(int64_t positions, Arena& arena) {
  float *query = arena.take(positions * kPanel), *scores = arena.take(kTileKeys * kPanel);
  __builtin_memset(query, 0, size_t(positions * kPanel) * sizeof(float));
  PanelState panel = take_panel(positions, scores, arena);
  panel.query = query;
  return panel;
}

// Queries [first, first + n) become columns of a panel.
PanelState begin_panel(const AttendJob& job, const AttendPart& part, int64_t first, int64_t n, Arena& arena) {
  const RowShape& shape = job.shape;
  const PanelState panel = take_panel(positions_before(shape, row_groups(shape)), arena);
  Arena rest = arena;
  float* query = rest.take(shape.head_dim);
  for (int64_t r = 0; r < n; ++r) {
    load_query(job, part, first + r, query);
    for (int64_t g = 0; g < row_groups(shape); ++g) {
      const GroupWords words = group_words(shape, g);
      float* column = panel.query + positions_before(shape, g) * kPanel + r;
      for (int64_t i = 0; i < shape.group; ++i) column[position_of(words, i) * kPanel] = query[g * shape.group + i];
    }
  }
  return panel;
}

// Scores begin with the mask. The panel sleeps if all of it is masked while every query has met a key that is not:
// nothing would be left of these.
void begin_scores(const AttendJob& job, const AttendPart& part, int64_t first, int64_t n, int64_t key, int64_t keys,
                  PanelState& panel) {
  const int64_t begin = part.query_begin + first, end = begin + n - 1, last = key + keys - 1;
  const bool hides = job.causal && (last > job.high(begin) || key < job.low(end)), masks = hides || job.mask.data;
  panel.live = key <= job.high(end) && last >= job.low(begin);
  if (!panel.live) return;
  if (!masks || n < kPanel) __builtin_memset(panel.scores, 0, size_t(keys) * kPanel * sizeof(float));
  if (!masks) return;
  float mask[kTileKeys], highest = -kInfinity, lowest_peak = kInfinity;
  for (int64_t r = 0; r < n; ++r) {
    load_mask(job, part, first + r, key, keys, mask);
    for (int64_t i = 0; i < keys; ++i) {
      panel.scores[i * kPanel + r] = mask[i];
      highest = most(highest, mask[i]);
    }
    lowest_peak = least(lowest_peak, panel.peak[r]);
  }
  panel.live = highest > kNever || !(lowest_peak > kNever / 10);
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
  const RowShape& shape = job.shape;
  for (int64_t r = 0; r < n; ++r) {
    float* record = records + r * (shape.head_dim + kRecordExtra);
    for (int64_t g = 0; g < row_groups(shape); ++g) {
      const GroupWords words = group_words(shape, g);
      const float* column = panel.sum + positions_before(shape, g) * kPanel + r;
      for (int64_t i = 0; i < shape.group; ++i) record[g * shape.group + i] = column[position_of(words, i) * kPanel];
    }
    record[shape.head_dim] = panel.peak[r];
    record[shape.head_dim + 1] = panel.total[r];
  }
}

void attend_many(const AttendJob& job, const AttendPart& part, float* records, Arena arena) {
  const RowShape& shape = job.shape;
  const int64_t groups = row_groups(shape), queries = part.queries(), all = positions_before(shape, groups);
  const int64_t count = ceil_div(queries, kPanel);
  PanelState panels[ceil_div(kMostQueries, kPanel)];
  const auto queries_of = [&](int64_t p) { return least<int64_t>(kPanel, queries - p * kPanel); };
  for (int64_t p = 0; p < count; ++p) panels[p] = begin_panel(job, part, p * kPanel, queries_of(p), arena);
  const Reader& reader = reader_of(shape.bits);
  const Tile tile = take_tile(shape, arena);
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
      const int64_t first = positions_before(shape, g), positions = keys.words * kWordInputs;
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
      const int64_t first = positions_before(shape, g), positions = values.words * kWordInputs;
      reader.decode(values, tile.offset, tile.data, tile.stride);
      for (int64_t p = 0; p < count; ++p) {
        if (!panels[p].live) continue;
        scale_rows<false>(panels[p].scores, tile.scale, n, product);
        add_products(tile.data, positions, 1, tile.stride, product, n, panels[p].sum + first * kPanel);
      }
    }
  }
  for (int64_t p = 0; p < count; ++p)
    end_panel(job, panels[p], queries_of(p), records + p * kPanel * (shape.head_dim + kRecordExtra));
}
