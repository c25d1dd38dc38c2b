// Products of many rows with a head of floats by bfloat16 registers, in thirds of a float as in attend_amx.inl; a head of
// bfloat16 numbers needs no more than one of them.

// Rows [o, o + count) of a head as an operand; behind the last one and behind n, zeros.
template <int splits>
void put_head(const FloatRows& weight, int64_t o, int64_t count, int64_t n, float* room, char* to) {
  constexpr int64_t kSteps = 128;
  for (int64_t i = 0; i < n; i += kSteps) {
    const int64_t steps = least(kSteps, n - i);
    int64_t stride;
    const float* rows = open_block(weight, o, count, i, steps, room, &stride);
    for (int64_t r = 0; r < kPairs; ++r)
      for (int64_t j = 0; j < steps; j += kPairs) {
        char* at = operand<splits>(to + r % amx::kRows * amx::kBytes, (i + j) / kPairs, r / amx::kRows);
        const float* from = rows + r * stride + j;
        put_row<splits>(r < count ? load_floats(from, steps - j) : Floats{},
                        r < count && steps - j > kLanes ? load_floats(from + kLanes, steps - j - kLanes) : Floats{}, at);
      }
  }
}

class RegisterBlocks {
 public:
  RegisterBlocks(int64_t n, Arena arena)
      : n_(n), depths_(ceil_div(n, kPairs)), floats_(arena.take(kHeadPanels * depths_ * kPairs * kPanel)), arena_(arena) {
    for (char*& panel : panels_) panel = take<3>();
  }

  int64_t fill(const float* x, int64_t rows) {
    const int64_t steps = depths_ * kPairs;
    count_ = fill_panels(x, rows, n_, steps, floats_);
    for (int64_t p = 0; p < count_; ++p) put_panel<3>(floats_ + p * steps * kPanel, depths_, panels_[p]);
    return count_;
  }

  template <class Emit>
  void run(const FloatRows& weight, int64_t begin, int64_t end, const Emit& emit) {
    if (weight.dtype == Dtype::bfloat16)
      run_of<1>(weight, begin, end, emit);
    else
      run_of<3>(weight, begin, end, emit);
  }

 private:
  template <int splits>
  char* take() {
    return reinterpret_cast<char*>(arena_.take(operand_bytes<splits>(depths_) / int64_t(sizeof(float))));
  }

  template <int splits, class Emit>
  void run_of(const FloatRows& weight, int64_t begin, int64_t end, const Emit& emit) {
    const Arena before = arena_;
    char* rows = take<splits>();
    float *room = arena_.take(kPairs * 128), *sums = arena_.take(kPairs * kPanel);
    amx::configure();
    for (int64_t o = begin; o < end; o += kPairs) {
      const int64_t outputs = least(kPairs, end - o);
      put_head<splits>(weight, o, outputs, n_, room, rows);
      for (int64_t p = 0; p < count_; ++p) {
        multiply_block<splits, 3, false>(rows, panels_[p], depths_, sums);
        emit(p, o, outputs, sums);
      }
    }
    amx::release();
    arena_ = before;
  }

  int64_t n_, depths_, count_ = 0;
  float* floats_;
  Arena arena_;
  char* panels_[kHeadPanels];
};

constexpr int64_t kNarrow = 128;  // below so many numbers a row, splitting them takes what the products save

void head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
          int64_t end, float* out, int64_t out_stride, float* scratch) {
  if (rows > kHeadFew && n >= kNarrow)
    many_head<RegisterBlocks>(weight, bias, x, rows, n, begin, end, out, out_stride, scratch);
  else
    kAvx512Vnni.engine->head(weight, bias, x, rows, n, begin, end, out, out_stride, scratch);
}

void likelihoods(const LikelihoodJob& job, int64_t piece_begin, int64_t piece_end, float* scratch) {
  (job.n >= kNarrow ? note_pieces<RegisterBlocks> : kAvx512Vnni.engine->likelihoods)(job, piece_begin, piece_end, scratch);
}
