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
  const int64_t n = job.layout.group;
  CountRange range = job.range;
  TokenScale best{};
  float least_error = 0;
  for (int64_t r = 0; r < job.ratio_count; ++r) {
    range.clip_ratio = job.ratios[r];
    const TokenScale s = scale_of(extremes, range);
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
void count_row(const RowsJob& job, float* u, uint8_t* row, Count* counts, float* scratch) {
  for (int64_t g = 0; g < row_groups(job.layout); ++g) {
    float* part = u + g * job.layout.group;
    const Extremes extremes = finish_potential(part, job.layout.group, job.transform.factor, Clip::none, 0);
    const TokenScale s = best_scale(job, extremes, part, scratch);
    write_counts(part, job.layout.group, s, job.range, counts + g * job.layout.group);
    write_row_group(row, job.layout, g, s.scale, whole_zero(s));
  }
  if (job.statistics) add_statistics(counts, job.layout.head_dim, job.statistics);
}

// Counts from 0 are packed less 2^(bits-1), which is their highest bit turned over.
void pack_row(const RowLayout& layout, uint8_t* counts, uint8_t* row) {
  const uint64_t turn = layout.symmetric ? 0 : 0x0101010101010101u << (layout.bits - 1);
  const int64_t words = ceil_div(layout.head_dim, kWordInputs), padded = words * kWordInputs;
  __builtin_memset(counts + layout.head_dim, int(turn & 255), size_t(padded - layout.head_dim));
  for (int64_t w = 0; w < words; ++w) {
    const uint64_t word = pack_word(load<uint64_t>(counts + w * kWordInputs) ^ turn, layout.bits);
    __builtin_memcpy(row + w * layout.bits, &word, size_t(layout.bits));
  }
}

void encode_rows(const RowsJob& job, int64_t row_begin, int64_t row_end, float* scratch) {
  const int64_t n = job.layout.head_dim, bytes = row_bytes(job.layout);
  float* errors = scratch + 2 * n;
  uint8_t* counts = reinterpret_cast<uint8_t*>(scratch + 3 * n);
  for (int64_t r = row_begin; r < row_end; ++r) {
    uint8_t* row = job.rows + r * bytes;
    load_row(job.x, job.dtype, r * n, n, scratch);
    float* u = transform(job.transform, scratch, scratch + n);
    if (job.layout.symmetric)
      count_row(job, u, row, reinterpret_cast<int8_t*>(counts), errors);
    else
      count_row(job, u, row, counts, errors);
    pack_row(job.layout, counts, row);
  }
}
