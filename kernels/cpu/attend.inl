// Attention over rows of counts: scores = s · (q · k - z Σ q), y = Σ p s (v - z), for some queries and some keys.

void load_query(const AttendJob& job, const AttendPart& part, int64_t query, float* out) {
  load_row(job.query, job.dtype, job.query_at(part.batch, part.key_head, part.query_begin + query), job.shape.head_dim,
           out);
}

// A query's scores before anything is added to them: the mask of keys [key, key + n), -∞ where it sees none.
void load_mask(const AttendJob& job, const AttendPart& part, int64_t query, int64_t key, int64_t n, float* out) {
  const int64_t row = part.query_begin + query;
  if (job.causal) {
    const int64_t low = job.low(row), high = job.high(row);
    for (int64_t i = 0; i < n; ++i) out[i] = key + i < low || key + i > high ? -kInfinity : 0.0f;
  } else if (job.mask.data) {
    load_row(job.mask.data, job.mask.dtype, job.mask_at(part.batch, part.key_head, row) + key, n, out);
  } else {
    __builtin_memset(out, 0, size_t(n) * sizeof(float));
  }
}

// Scales, times a factor, and offsets of one group of some rows; zeros up to a whole vector.
void load_scales(const uint8_t* rows, int64_t stride, int64_t n, const RowShape& shape, int64_t group, float factor,
                 float* scale, float* offset) {
  for (int64_t i = 0; i < n; ++i) scale[i] = scale_at(rows + i * stride, shape, group) * factor;
  if (shape.symmetric)
    for (int64_t i = 0; i < n; ++i) offset[i] = float(weight_offset(shape.bits));
  else
    for (int64_t i = 0; i < n; ++i) offset[i] = float(zero_at(rows + i * stride, shape, group));
  for (int64_t i = n; i % kLanes; ++i) scale[i] = offset[i] = 0;
}

// Room for the positions of any group, and a vector behind them.
int64_t positions_stride(const RowShape& shape) {
  int64_t words = 0;
  for (int64_t g = 0; g < row_groups(shape); ++g) words = most(words, group_words(shape, g).count);
  return words * kWordInputs + kLanes;
}

// One group of some rows: scales, offsets, room for the counts less their offsets, and for the rows where they do not lie
// one behind the other.
struct Tile {
  float *scale, *offset, *data;
  int64_t stride;
  float* rows;
};

Tile take_tile(const RowShape& shape, Arena& arena) {
  const int64_t stride = positions_stride(shape);
  return {arena.take(kTileKeys), arena.take(kTileKeys), arena.take(kTileKeys * stride), stride,
          arena.take(ceil_div(kTileKeys * row_bytes(shape), int64_t(sizeof(float))))};
}

// Rows [begin, begin + n) of a group; their scales, times a factor, and offsets go into the tile.
RowSpan open_rows(const AttendJob& job, const AttendPart& part, const RowCache& cache, int64_t begin, int64_t n,
                  int64_t group, float factor, const Tile& tile) {
  const GroupWords words = group_words(job.shape, group);
  const uint8_t *head = cache.head(part.batch, part.key_head), *rows = head + cache.fork.row_of(begin) * cache.stride;
  int64_t stride = cache.stride;
  if (cache.fork.parts(begin, n)) {
    stride = row_bytes(job.shape);
    uint8_t* copy = reinterpret_cast<uint8_t*>(tile.rows);
    for (int64_t i = 0; i < n; ++i)
      __builtin_memcpy(copy + i * stride, head + cache.fork.row_of(begin + i) * cache.stride, size_t(stride));
    rows = copy;
  }
  load_scales(rows, stride, n, job.shape, group, factor, tile.scale, tile.offset);
  return {rows + words.first * job.shape.bits, stride, n, words.count};
}

#include "attend_few.inl"
#include "attend_many.inl"

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
