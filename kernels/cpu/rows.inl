// Keys or values → rows of counts (common/rows.h): rotated, each group at that of several ranges with the least error.

// Σ (s (k - z) - u)² over a group, summed as RMSNorm's squares are. The scratch holds n floats.
float count_error(const float* u, int64_t n, TokenScale s, const CountRange& range, float* scratch) {
  const Floats scale = splat(s.scale), zero = splat(s.zero), low = splat(range.min), high = splat(range.max);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats v = load<Floats>(u + i);
    store(scratch + i, scale * (bucket(v, scale, zero, low, high) - zero) - v);
  }
  for (; i < n; ++i) scratch[i] = s.scale * (bucket(u[i], s.scale, s.zero, range.min, range.max) - s.zero) - u[i];
  return square_sum(scratch, n, scratch);
}

// The scale of the ratio whose counts are nearest to the potential; of equal ones, the first.
TokenScale best_scale(const RowsJob& job, Extremes extremes, const float* u, float* scratch) {
  const int64_t n = job.shape.group;
  CountRange range = job.range;
  TokenScale best{};
  float least_error = 0;
  for (int64_t r = 0; r < job.ratio_count; ++r) {
    range.clip_ratio = job.ratios[r];
    const TokenScale s = row_scale(extremes.low, extremes.high, range);
    if (job.ratio_count == 1) return s;
    const float error = count_error(u, n, s, range, scratch);
    if (r == 0 || error < least_error) {
      best = s;
      least_error = error;
    }
  }
  return best;
}

// Counts of one row, as bytes, and the scales behind where they will be packed.
template <class Count>
void count_row(const RowsJob& job, float* u, uint8_t* row, Count* counts, float* scratch, uint64_t* own) {
  for (int64_t g = 0; g < row_groups(job.shape); ++g) {
    float* part = u + g * job.shape.group;
    const Extremes extremes = finish_potential(part, job.shape.group, job.transform.factor, Clip::none, 0);
    const TokenScale s = best_scale(job, extremes, part, scratch);
    write_counts(part, job.shape.group, s, job.range, counts + g * job.shape.group);
    write_scale(row, job.shape, g, s.scale, whole_zero(s));
  }
  if (own) count_counts(counts, job.shape.head_dim, job.histogram, own);
}

// Counts from 0 are packed less 2^(bits-1), which is their highest bit turned over.
void pack_row(const RowShape& shape, uint8_t* counts, uint8_t* row) {
  const uint64_t turn = shape.symmetric ? 0 : 0x0101010101010101u << (shape.bits - 1);
  const int64_t words = ceil_div(shape.head_dim, kWordInputs), padded = words * kWordInputs;
  __builtin_memset(counts + shape.head_dim, int(turn & 255), size_t(padded - shape.head_dim));
  for (int64_t w = 0; w < words; ++w) {
    const uint64_t word = pack_word(load<uint64_t>(counts + w * kWordInputs) ^ turn, shape.bits);
    __builtin_memcpy(row + w * shape.bits, &word, size_t(shape.bits));
  }
}

void encode_rows(const RowsJob& job, int64_t row_begin, int64_t row_end, float* scratch) {
  const int64_t n = job.shape.head_dim, bytes = row_bytes(job.shape);
  float* errors = scratch + 2 * n;
  uint64_t* own = own_bins(job.histogram, scratch, rows_scratch(job));
  uint8_t* counts = reinterpret_cast<uint8_t*>(scratch + 3 * n);
  for (int64_t r = row_begin; r < row_end; ++r) {
    uint8_t* row = job.rows + r * bytes;
    load_row(job.x, job.dtype, r * n, n, scratch);
    float* u = transform(job.transform, scratch, scratch + n);
    if (job.shape.symmetric)
      count_row(job, u, row, reinterpret_cast<int8_t*>(counts), errors, own);
    else
      count_row(job, u, row, counts, errors, own);
    pack_row(job.shape, counts, row);
  }
  add_bins(job.histogram, own);
}
