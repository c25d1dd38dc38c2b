// acc[token][o] = Σ_i w[o][i] k[token][i] for the tiles of a weight, then the output's scaling, all in registers.
//
// `Product` (each instruction set has its own) multiplies a step: 4 inputs × a vector of outputs, unsigned weights ×
// signed counts. Its sums may be narrow and hold `period` steps before they must be widened into int32.

// The even (0) or odd (1) inputs of a tile's word, a byte each. Unpacking a nibble at every use costs no time from
// three rows on: products run on two of the vector ports, masks and shifts on the others.
template <class P, bool nibble, int half>
SPIKECONV_HD typename P::Weights half_word(const uint8_t* p) {
  if constexpr (nibble)
    return half ? P::high(p) : P::low(p);
  else
    return P::weights(p + half * kStepBytes);
}

// sum[rows][vectors] += weights × counts over some words, for many rows.
template <class P, bool nibble, int rows, int tiles, class Sum>
SPIKECONV_HD void add_words(const uint8_t* w, int64_t stride, const int8_t* k, int64_t words, Sum& sum) {
  constexpr int kVectors = P::kVectors;
  for (int64_t i = 0; i < words; ++i, w += word_bytes(nibble), k += rows * kWordInputs) {
    typename P::Weights v[tiles * kVectors];
    const auto step = [&]<int half>() __attribute__((always_inline)) {
      SPIKECONV_UNROLL for (int t = 0; t < tiles; ++t)
        SPIKECONV_UNROLL for (int j = 0; j < kVectors; ++j)
          v[t * kVectors + j] = half_word<P, nibble, half>(w + t * stride + j * P::kBytes);
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
        const auto c = P::counts(k + (half * rows + r) * kStepInputs);
        SPIKECONV_UNROLL for (int j = 0; j < tiles * kVectors; ++j) P::add(sum[r][j], v[j], c);
      }
    };
    step.template operator()<0>();
    step.template operator()<1>();
  }
}

// The same for few rows, where reading the weights is what takes time: `tiles` long streams at once, and even and odd
// inputs add up apart, for an addition may take long.
template <class P, bool nibble, int rows, int tiles, class Sum>
SPIKECONV_HD void add_streams(const uint8_t* w, int64_t stride, const int8_t* k, int64_t words, Sum& sum,
                              Sum& odd_sum) {
  constexpr int kVectors = P::kVectors;
  constexpr int64_t kAhead = P::ahead(rows);
  for (int64_t i = 0; i < words; ++i, w += word_bytes(nibble), k += rows * kWordInputs)
    SPIKECONV_UNROLL for (int t = 0; t < tiles; ++t) {
      if constexpr (kAhead > 0)
        for (int64_t line = 0; line < word_bytes(nibble); line += kStepBytes)
          __builtin_prefetch(w + t * stride + kAhead + line);
      SPIKECONV_UNROLL for (int j = 0; j < kVectors; ++j) {
        const uint8_t* at = w + t * stride + j * P::kBytes;
        const auto even = half_word<P, nibble, 0>(at), odd = half_word<P, nibble, 1>(at);
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
          P::add(sum[r][t * kVectors + j], even, P::counts(k + r * kStepInputs));
          P::add(odd_sum[r][t * kVectors + j], odd, P::counts(k + (rows + r) * kStepInputs));
        }
      }
    }
}

template <class P, bool nibble, int rows, int tiles, bool few>
void run_unit(const Weight& w, const PackedCounts& counts, const Output& out, const Unit& unit, int64_t period) {
  constexpr int kSums = tiles * P::kVectors;
  Ints total[rows][kSums] = {};
  const int8_t* k = unit.counts;
  for (int plane = 0; plane < counts.planes; ++plane, k += rows * counts.words * kWordInputs) {
    if (plane)
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
        SPIKECONV_UNROLL for (int j = 0; j < kSums; ++j)
          total[r][j] = mul_ints(total[r][j], splat_bits(kPlane));
    for (int64_t begin = 0; begin < counts.words; begin += period) {
      const int64_t words = P::kWhole ? counts.words : least(period, counts.words - begin);
      const uint8_t* weights = unit.weights + begin * word_bytes(nibble);
      const int8_t* from = k + begin * rows * kWordInputs;
      if constexpr (few) {
        typename P::Acc even[rows][kSums] = {}, odd[rows][kSums] = {};
        auto& odd_sum = P::kWhole ? odd : even;
        add_streams<P, nibble, rows, tiles>(weights, unit.stride, from, words, even, odd_sum);
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
          SPIKECONV_UNROLL for (int j = 0; j < kSums; ++j) {
            total[r][j] = add_ints(total[r][j], P::widen(even[r][j]));
            if (P::kWhole) total[r][j] = add_ints(total[r][j], P::widen(odd[r][j]));
          }
      } else if constexpr (P::kWhole) {
        add_words<P, nibble, rows, tiles>(weights, unit.stride, from, words, total);
      } else {
        typename P::Acc sum[rows][kSums] = {};
        add_words<P, nibble, rows, tiles>(weights, unit.stride, from, words, sum);
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
          SPIKECONV_UNROLL for (int j = 0; j < kSums; ++j)
            total[r][j] = add_ints(total[r][j], P::widen(sum[r][j]));
      }
      if (P::kWhole) break;
    }
  }
  Ints held[rows * kSums];  // apart from the registers, since its address is known elsewhere
  SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
    SPIKECONV_UNROLL for (int j = 0; j < kSums; ++j) held[r * kSums + j] = total[r][j];
  write_tile(w, counts, out, unit, rows, kSums, P::kVectors, held);
}

typedef void (*RunUnit)(const Weight&, const PackedCounts&, const Output&, const Unit&, int64_t);

template <class P, bool nibble, bool few, int rows, int tiles>
RunUnit unit_of(int64_t wanted_rows, int64_t wanted_tiles) {
  if (wanted_rows < rows)
    if constexpr (rows > 1) return unit_of<P, nibble, few, rows - 1, tiles>(wanted_rows, wanted_tiles);
  if (wanted_tiles < tiles)
    if constexpr (tiles > 1) return unit_of<P, nibble, few, rows, tiles - 1>(wanted_rows, wanted_tiles);
  return run_unit<P, nibble, rows, tiles, few>;
}

template <bool few>
RunUnit unit_for(bool nibble, bool narrow, int64_t rows, int64_t tiles) {
  constexpr int kRows = few ? kFewRows : Product::kRows, kTiles = few ? kStreams : Product::kTiles;
  if (narrow && nibble) return unit_of<Product, true, few, kRows, kTiles>(rows, tiles);
  if (narrow) return unit_of<Product, false, few, kRows, kTiles>(rows, tiles);
  if (nibble) return unit_of<WideProduct, true, few, kRows, kTiles>(rows, tiles);
  return unit_of<WideProduct, false, few, kRows, kTiles>(rows, tiles);
}

int64_t words_of_period(const Weight& w, const PackedCounts& counts, bool& narrow) {
  const int64_t period = Product::period((1 << w.bits) - 1, counts.largest);
  narrow = period > 0;
  return narrow ? period / 2 : INT64_MAX / 2;
}

// A tile of nibbles as bytes, where every vector port is busy with products already (AVX2).
void unpack_tile(const uint8_t* tile, int64_t words, uint8_t* out) {
  for (int64_t i = 0; i < words; ++i, tile += kStepBytes, out += 2 * kStepBytes)
    for (int j = 0; j < kStepBytes; ++j) {
      out[j] = tile[j] & 15;
      out[kStepBytes + j] = tile[j] >> 4;
    }
}

// The weights of a panel come from memory once and stay in the second-level cache; a row tile's counts stay in the
// first.
void dense(const Weight& w, const PackedCounts& counts, const Output& out, int64_t panel, int64_t begin, int64_t end,
           void* scratch) {
  const int64_t stride = counts.words * word_bytes(is_nibble(w.bits)), first = panel * kPanelOutputs;
  const int64_t outputs = least(kPanelOutputs, w.out_features - first);
  bool narrow;
  const int64_t period = words_of_period(w, counts, narrow);
  const uint8_t* weights = w.data + panel * kPanelTiles * stride;
  if (w.columns) {
    tiles_of_columns(w, panel, static_cast<uint8_t*>(scratch));
    weights = static_cast<const uint8_t*>(scratch);
  }
  float bias[kPanelOutputs] = {};
  if (out.bias) load_row(out.bias, out.bias_dtype, first, outputs, bias);
  const int64_t panel_tiles = ceil_div(outputs, kTileOutputs);
  const auto run = [&](const uint8_t* from, bool nibble, int64_t token, int64_t t, int64_t tiles) {
    const Unit unit{from,  stride, first + t * kTileOutputs, kTileOutputs, counts.tile(token),
                    token, bias + t * kTileOutputs};
    unit_for<false>(nibble, narrow, least<int64_t>(Product::kRows, end - token), tiles)(w, counts, out, unit, period);
  };
  if (Product::kUnpacks && is_nibble(w.bits) && end - begin >= kUnpackRows) {
    uint8_t* bytes = static_cast<uint8_t*>(scratch) + (w.columns ? kPanelTiles * stride : 0);
    for (int64_t t = 0; t < panel_tiles; ++t) {
      unpack_tile(weights + t * stride, counts.words, bytes);
      for (int64_t token = begin; token < end; token += Product::kRows) run(bytes, false, token, t, 1);
    }
    return;
  }
  for (int64_t token = begin; token < end; token += Product::kRows)
    for (int64_t t = 0; t < panel_tiles; t += Product::kTiles)
      run(weights + t * stride, is_nibble(w.bits), token, t, least<int64_t>(Product::kTiles, panel_tiles - t));
}

// All of one row tile of at most kFewRows tokens against tiles [begin, end), which are read as long streams side by
// side.
void dense_few(const Weight& w, const PackedCounts& counts, int64_t rows, const Output& out, int64_t begin,
               int64_t end) {
  const int64_t stride = counts.words * word_bytes(is_nibble(w.bits));
  bool narrow;
  const int64_t period = words_of_period(w, counts, narrow);
  const int64_t side = rows * kStreams * Product::kVectors <= kSumRegisters ? kStreams : 1, gap = (end - begin) / side;
  const auto run = [&](int64_t tile, int64_t tiles) {
    float bias[kStreams * kTileOutputs] = {};
    const int64_t first = tile * kTileOutputs;
    for (int64_t t = 0; t < tiles && out.bias; ++t) {
      const int64_t at = first + t * gap * kTileOutputs, n = least<int64_t>(kTileOutputs, w.out_features - at);
      load_row(out.bias, out.bias_dtype, at, n, bias + t * kTileOutputs);
    }
    const Unit unit{w.data + tile * stride, gap * stride, first, gap * kTileOutputs,
                    counts.data,            0,            bias};
    unit_for<true>(is_nibble(w.bits), narrow, rows, tiles)(w, counts, out, unit, period);
  };
  for (int64_t i = 0; i < gap; ++i) run(begin + i, side);
  for (int64_t tile = begin + gap * side; tile < end; ++tile) run(tile, 1);
}
