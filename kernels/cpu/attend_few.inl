// Few queries (decoding): counts are used in registers, straight out of the rows, for up to four queries at a time.

// Queries or sums of some queries, by group and in the order of positions, each followed by a vector of zeros.
struct Positions {
  float* data;
  int64_t queries, stride;
  float* at(int64_t group, int64_t query) const { return data + (group * queries + query) * stride; }
};

Positions take_positions(const RowShape& shape, int64_t queries, Arena& arena) {
  Positions p{nullptr, queries, positions_stride(shape)};
  const int64_t floats = row_groups(shape) * queries * p.stride;
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
  const RowShape& shape = job.shape;
  const Reader& reader = reader_of(shape.bits);
  const int64_t queries = part.queries(), groups = row_groups(shape);
  const Positions q = take_positions(shape, queries, arena);
  float *sums = arena.take(groups * queries), *query = arena.take(shape.head_dim);
  for (int64_t r = 0; r < queries; ++r) {
    load_query(job, part, r, query);
    load_mask(job, part, r, part.key_begin, part.keys(), scores + r * stride);
    for (int64_t g = 0; g < groups; ++g) {
      const GroupWords words = group_words(shape, g);
      float sum = 0;
      for (int64_t i = 0; i < shape.group; ++i) {
        const float x = query[g * shape.group + i];
        q.at(g, r)[position_of(words, i)] = x / reader.unit[field_of(words, i)];
        sum += x;
      }
      sums[g * queries + r] = sum;
    }
  }
  const Tile tile = take_tile(shape, arena);
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
  const RowShape& shape = job.shape;
  const Reader& reader = reader_of(shape.bits);
  const int64_t queries = part.queries(), groups = row_groups(shape);
  const Positions sums = take_positions(shape, queries, arena);
  const Tile tile = take_tile(shape, arena);
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
      for (int64_t i = 0; i < shape.group; ++i)
        records[r * (shape.head_dim + kRecordExtra) + g * shape.group + i] =
            sums.at(g, r)[position_of(group_words(shape, g), i)];
}

void attend_few(const AttendJob& job, const AttendPart& part, float* records, Arena arena) {
  const int64_t stride = ceil_div(part.keys(), kLanes) * kLanes, n = job.shape.head_dim;
  float* scores = arena.take(part.queries() * stride);
  few_scores(job, part, scores, stride, arena);
  for (int64_t r = 0; r < part.queries(); ++r) {
    const Softmax softmax = few_softmax(scores + r * stride, part.keys());
    records[r * (n + kRecordExtra) + n] = softmax.peak;
    records[r * (n + kRecordExtra) + n + 1] = softmax.sum;
  }
  few_means(job, part, scores, stride, records, arena);
}
