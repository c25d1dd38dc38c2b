// Attention of many queries over floats by products of bfloat16 registers. A float32 is three bfloat16 numbers, exactly;
// six of their nine products are as much as float32 arithmetic keeps. Scores are [key][query], queries in panels of a
// query a lane, as elsewhere.

constexpr int64_t kBlockKeys = 64;  // keys at a time
constexpr int64_t kPairs = 2 * amx::kRows;  // numbers of a register's row, and rows of a block
constexpr int64_t kPanelBytes = kPanel * 4;

// x as `splits` parts of 8 significant bits each, in the upper halves of the lanes; as one it is rounded.
template <int splits>
SPIKECONV_HD void split_floats(Floats x, Ints* part) {
  const Ints upper = splat_bits(0xffff0000u);
  if constexpr (splits == 1) {
    const Ints bits = (Ints)x;
    part[0] = (bits + 0x7fff + (bits >> 16 & 1)) & upper;  // a NaN of arithmetic stays one
  } else {
    for (int s = 0; s < splits; ++s) {
      part[s] = (Ints)x & upper;
      x -= (Floats)part[s];
    }
  }
}

// Two numbers of each lane as a pair: the first in the lower half.
SPIKECONV_HD Ints pair_of(Ints low, Ints high) { return ((Ints)((Naturals)low >> 16)) | high; }

// Operands lie as they are read: [depths of 32 numbers][splits][halves of 16 rows or lanes] of registers.
template <int splits>
constexpr int64_t operand_bytes(int64_t depths) {
  return depths * splits * 2 * kRegisterBytes;
}

// Of a depth and a half, the first part; others are two registers on.
template <int splits>
SPIKECONV_HD char* operand(char* base, int64_t depth, int64_t half) {
  return base + (depth * splits * 2 + half) * kRegisterBytes;
}

// c [32 rows][kPanel] = a · b, or added to what c is.
template <int splits, int b_splits, bool adds>
void multiply_block(const char* a, const char* b, int64_t depths, float* c) {
  const auto sums = [&](auto move) __attribute__((always_inline)) {
    move.template operator()<0>(c);
    move.template operator()<1>(c + kLanes);
    move.template operator()<2>(c + amx::kRows * kPanel);
    move.template operator()<3>(c + amx::kRows * kPanel + kLanes);
  };
  const auto multiply = []() __attribute__((always_inline)) {
    amx::multiply_bfloats<0, 4, 6>();
    amx::multiply_bfloats<1, 4, 7>();
    amx::multiply_bfloats<2, 5, 6>();
    amx::multiply_bfloats<3, 5, 7>();
  };
  if constexpr (adds)
    sums([]<int r>(float* at) { amx::load<r>(at, kPanelBytes); });
  else
    amx::zero<0>(), amx::zero<1>(), amx::zero<2>(), amx::zero<3>();
  for (int64_t d = 0; d < depths; ++d, a += operand_bytes<splits>(1), b += operand_bytes<b_splits>(1)) {
    const auto load_a = [&](int s) __attribute__((always_inline)) {
      amx::load<4>(a + 2 * s * kRegisterBytes, amx::kBytes);
      amx::load<5>(a + (2 * s + 1) * kRegisterBytes, amx::kBytes);
    };
    const auto load_b = [&](int s) __attribute__((always_inline)) {
      amx::load<6>(b + 2 * s * kRegisterBytes, amx::kBytes);
      amx::load<7>(b + (2 * s + 1) * kRegisterBytes, amx::kBytes);
    };
    load_a(0);
    if constexpr (splits == 3) {
      static_assert(b_splits == 3);
      load_b(2), multiply();
      load_b(1), multiply();
      load_a(1), multiply();
      load_b(0), multiply();
      load_a(2), multiply();
      load_a(0), multiply();
    } else {
      for (int part = b_splits - 1; part >= 0; --part) load_b(part), multiply();
    }
  }
  sums([]<int r>(float* at) { amx::store<r>(at, kPanelBytes); });
}

// 16 × 16 numbers of 32 bits, in place.
SPIKECONV_HD void transpose(Ints* row) {
  const auto step = [&]<int half>() __attribute__((always_inline)) {
    Ints low, high;
    for (int i = 0; i < kLanes; ++i) {
      low[i] = i & half ? (i - half) + kLanes : i;
      high[i] = i & half ? i + kLanes : i + half;
    }
    SPIKECONV_UNROLL for (int i = 0; i < kLanes; ++i)
      if (!(i & half)) {
        const __m512i a = (__m512i)row[i], b = (__m512i)row[i + half];
        row[i] = (Ints)_mm512_permutex2var_epi32(a, (__m512i)low, b);
        row[i + half] = (Ints)_mm512_permutex2var_epi32(a, (__m512i)high, b);
      }
  };
  step.template operator()<8>();
  step.template operator()<4>();
  step.template operator()<2>();
  step.template operator()<1>();
}

// Keys or values that a job sees, of float32 or bfloat16.
template <int splits>
struct States {
  using Number = std::conditional_t<splits == 1, uint16_t, float>;
  const FloatRows& rows;
  const Fork& fork;
  const Number* at(int64_t key) const { return static_cast<const Number*>(rows.data) + fork.row_of(key) * rows.stride; }
};

// 32 numbers as a row of registers, one for each part.
template <int splits>
SPIKECONV_HD void put_row(Floats first, Floats second, char* to) {
  Ints low[splits], high[splits], upper;
  for (int i = 0; i < kLanes; ++i) upper[i] = (4 * i + 3) << 16 | (4 * i + 1);
  split_floats<splits>(first, low);
  split_floats<splits>(second, high);
  for (int s = 0; s < splits; ++s)
    store(to + 2 * s * kRegisterBytes, (Ints)_mm512_permutex2var_epi16((__m512i)low[s], (__m512i)upper, (__m512i)high[s]));
}

// Keys [begin, begin + n) as operands of 32 keys each; behind the last one, zeros.
template <int splits>
void put_keys(const States<splits>& keys, int64_t begin, int64_t n, int64_t dim, char* to) {
  const int64_t depths = dim / kPairs;
  for (int64_t k = 0; k < ceil_div(n, kPairs) * kPairs; ++k) {
    char* rows = to + k / kPairs * operand_bytes<splits>(depths) + k % amx::kRows * amx::kBytes;
    for (int64_t d = 0; d < depths; ++d) {
      char* at = operand<splits>(rows, d, k / amx::kRows % 2);
      if (k >= n) {
        for (int s = 0; s < splits; ++s) store(at + 2 * s * kRegisterBytes, Ints{});
      } else if constexpr (splits == 1) {
        store(at, load<Ints>(keys.at(begin + k) + d * kPairs));
      } else {
        const float* from = keys.at(begin + k) + d * kPairs;
        put_row<splits>(load<Floats>(from), load<Floats>(from + kLanes), at);
      }
    }
  }
}

// Values [begin, begin + n) as operands of 32 of their numbers each, along the keys; behind the last one, zeros.
template <int splits>
void put_values(const States<splits>& values, int64_t begin, int64_t n, int64_t dim, char* to) {
  const auto lanes = [&](int64_t key, int64_t i, Ints* part) __attribute__((always_inline)) {
    if (key >= n) {
      for (int s = 0; s < splits; ++s) part[s] = Ints{};
    } else if constexpr (splits == 1) {
      part[0] = (Ints)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(values.at(begin + key) + i)), 16);
    } else {
      split_floats<splits>(load<Floats>(values.at(begin + key) + i), part);
    }
  };
  const int64_t depths = ceil_div(n, kPairs);
  for (int64_t i = 0; i < dim; i += kLanes)
    for (int64_t d = 0; d < depths; ++d) {
      char* at = operand<splits>(to + i / kPairs * operand_bytes<splits>(depths), d, i / kLanes % 2);
      Ints pairs[splits][kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        Ints low[splits], high[splits];
        lanes(d * kPairs + 2 * j, i, low);
        lanes(d * kPairs + 2 * j + 1, i, high);
        for (int s = 0; s < splits; ++s) pairs[s][j] = pair_of(low[s], high[s]);
      }
      for (int s = 0; s < splits; ++s) {
        transpose(pairs[s]);
        for (int64_t j = 0; j < kLanes; ++j) store(at + 2 * s * kRegisterBytes + j * amx::kBytes, pairs[s][j]);
      }
    }
}

// Rows [32 · depths][kPanel] as an operand.
template <int splits>
void put_panel(const float* from, int64_t depths, char* to) {
  for (int64_t pair = 0; pair < depths * amx::kRows; ++pair)
    for (int half = 0; half < 2; ++half) {
      const float* rows = from + 2 * pair * kPanel + half * kLanes;
      char* at = operand<splits>(to, pair / amx::kRows, half) + pair % amx::kRows * amx::kBytes;
      Ints low[splits], high[splits];
      split_floats<splits>(load<Floats>(rows), low);
      split_floats<splits>(load<Floats>(rows + kPanel), high);
      for (int s = 0; s < splits; ++s) store(at + 2 * s * kRegisterBytes, pair_of(low[s], high[s]));
    }
}

template <int splits>
void attend_blocks(const FloatAttendJob& job, const FloatAttendPart& part, float* records, Arena arena) {
  const int64_t dim = job.dim, rows = part.rows(), count = ceil_div(rows, kPanel);
  const int64_t dims = dim / kPairs;
  const auto take = [&](int64_t depths) {
    return reinterpret_cast<char*>(arena.take(operand_bytes<splits>(depths) / int64_t(sizeof(float))));
  };
  const auto rows_of = [&](int64_t p) { return least<int64_t>(kPanel, rows - p * kPanel); };
  char *keys = take(kBlockKeys / kPairs * dims), *values = take(kBlockKeys / kPairs * dims);
  char* weights = take(kBlockKeys / kPairs);
  float *scores = arena.take(kBlockKeys * kPanel), *columns = arena.take(dim * kPanel);
  PanelState panels[ceil_div(kMostRows, kPanel)];
  char* queries[ceil_div(kMostRows, kPanel)];
  for (int64_t p = 0; p < count; ++p) {
    queries[p] = take(dims);
    panels[p] = take_panel(dim, scores, arena);
    __builtin_memset(columns, 0, size_t(dim * kPanel) * sizeof(float));
    for (int64_t r = 0; r < rows_of(p); ++r) {
      const float* from = job.row(part.row_begin + p * kPanel + r);
      for (int64_t i = 0; i < dim; ++i) columns[i * kPanel + r] = from[i] * job.scaling;
    }
    put_panel<splits>(columns, dims, queries[p]);
  }
  amx::configure();
  for (int64_t k = part.key_begin; k < part.key_end; k += kBlockKeys) {
    const int64_t n = least(kBlockKeys, part.key_end - k), depths = ceil_div(n, kPairs);
    put_keys<splits>({job.keys, job.fork}, k, n, dim, keys);
    put_values<splits>({job.values, job.fork}, k, n, dim, values);
    for (int64_t p = 0; p < count; ++p) {
      PanelState& panel = panels[p];
      const int64_t first = part.row_begin + p * kPanel, last = first + rows_of(p) - 1;
      if (k > job.high(last) || k + n <= job.low(first)) continue;
      for (int64_t d = 0; d < depths; ++d)
        multiply_block<splits, splits, false>(keys + d * operand_bytes<splits>(dims), queries[p], dims, scores + d * kPairs * kPanel);
      if (k + n - 1 > job.high(first) || k < job.low(last)) hide_scores(job, first, k, n, scores);
      panel_softmax(panel, n, dim);
      __builtin_memset(scores + n * kPanel, 0, size_t((depths * kPairs - n) * kPanel) * sizeof(float));
      put_panel<splits>(scores, depths, weights);
      for (int64_t d = 0; d < dims; ++d)
        multiply_block<splits, splits, true>(values + d * operand_bytes<splits>(depths), weights, depths,
                                     panel.sum + d * kPairs * kPanel);
    }
  }
  amx::release();
  end_panels(panels, rows, dim, records);
}

void attend_floats(const FloatAttendJob& job, const FloatAttendPart& part, float* records, float* scratch) {
  if (part.rows() <= kFewQueryRows || job.dim % kPairs)
    kAvx512Vnni.engine->attend(job, part, records, scratch);
  else if (job.keys.dtype == Dtype::bfloat16)
    attend_blocks<1>(job, part, records, {scratch});
  else
    attend_blocks<3>(job, part, records, {scratch});
}
