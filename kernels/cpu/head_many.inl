// Products of many rows with a head of floats. `Blocks` multiplies: fill(x, rows) takes the next rows and returns how many
// panels they are, run(weight, begin, end, emit) lets them meet rows of the head: emit(panel, o, outputs, sums
// [outputs][kPanel]) for one after the other.

// Rows of x [rows, n] as panels [count][steps][kPanel], a row a lane, zeros behind n; returns how many panels there are,
// at most kHeadPanels.
int64_t fill_panels(const float* x, int64_t rows, int64_t n, int64_t steps, float* panels) {
  const int64_t count = least(kHeadPanels, ceil_div(rows, kPanel));
  __builtin_memset(panels, 0, size_t(count * steps * kPanel) * sizeof(float));
  for (int64_t r = 0; r < least(rows, count * kPanel); ++r)
    for (int64_t i = 0; i < n; ++i) panels[(r / kPanel * steps + i) * kPanel + r % kPanel] = x[r * n + i];
  return count;
}

template <class Blocks>
void many_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
               int64_t end, float* out, int64_t out_stride, float* scratch) {
  Blocks blocks(n, {scratch});
  for (int64_t row = 0; row < rows; row += kHeadPanels * kPanel) {
    blocks.fill(x + row * n, rows - row);
    blocks.run(weight, begin, end, [&](int64_t p, int64_t o, int64_t outputs, const float* sums) {
      const int64_t first = row + p * kPanel;
      for (int64_t r = 0; r < least<int64_t>(kPanel, rows - first); ++r)
        for (int64_t c = 0; c < outputs; ++c)
          out[(first + r) * out_stride + o + c] = sums[c * kPanel + r] + (bias ? bias[o + c] : 0.0f);
    });
  }
}

// Some more logits of a panel, [outputs][kPanel], the first one token o's: the highest so far, whose it is, and
// Σ e^(logit - highest).
void note_logits(const float* logits, int64_t o, int64_t outputs, float* peaks, float* sums, int32_t* best) {
  for (int v = 0; v < kPanel; v += kLanes) {
    const Floats before = load<Floats>(peaks + v);
    Floats peak = before;
    Ints token = load<Ints>(best + v);
    for (int64_t c = 0; c < outputs; ++c) {
      const Floats logit = load<Floats>(logits + c * kPanel + v);
      token = logit > peak ? splat_bits(uint32_t(o + c)) : token;
      peak = logit > peak ? logit : peak;
    }
    Floats sum = load<Floats>(sums + v) * exp_negative(before - peak);
    for (int64_t c = 0; c < outputs; ++c) sum += exp_negative(load<Floats>(logits + c * kPanel + v) - peak);
    store(peaks + v, peak);
    store(best + v, token);
    store(sums + v, sum);
  }
}

// The first that asks for a token or one behind it.
const Asked* asked_from(const LikelihoodJob& job, int64_t token) {
  const Asked *low = job.asked, *high = job.asked_end;
  while (low < high) {
    const Asked* middle = low + (high - low) / 2;
    if (middle->token < token)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

template <class Blocks>
void note_pieces(const LikelihoodJob& job, int64_t piece_begin, int64_t piece_end, float* scratch) {
  Blocks blocks(job.n, {scratch});
  for (int64_t row = 0; row < job.rows; row += kHeadPanels * kPanel) {
    const int64_t count = blocks.fill(job.x + row * job.n, job.rows - row);
    for (int64_t piece = piece_begin; piece < piece_end; ++piece) {
      const int64_t begin = piece * kPieceOutputs, end = least(begin + kPieceOutputs, job.vocabulary);
      float *peaks = job.peaks + piece * job.padded + row, *sums = job.sums + piece * job.padded + row;
      int32_t* best = job.best + piece * job.padded + row;
      for (int64_t r = 0; r < count * kPanel; ++r) peaks[r] = -__FLT_MAX__, sums[r] = 0, best[r] = -1;
      blocks.run(job.weight, begin, end, [&](int64_t p, int64_t o, int64_t outputs, float* logits) {
        for (int64_t c = 0; c < outputs && job.bias; ++c)
          for (int r = 0; r < kPanel; ++r) logits[c * kPanel + r] += job.bias[o + c];
        note_logits(logits, o, outputs, peaks + p * kPanel, sums + p * kPanel, best + p * kPanel);
        const int64_t first = row + p * kPanel;
        for (const Asked* a = asked_from(job, o); a < job.asked_end && a->token < o + outputs; ++a)
          if (first <= a->row && a->row < first + kPanel)
            job.logits[a->index] = logits[(a->token - o) * kPanel + (a->row - first)];
      });
    }
  }
}
