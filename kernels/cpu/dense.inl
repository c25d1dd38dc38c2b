// acc[token][o] = Σ_i w[o][i] k[token][i] for the tiles of a weight, then the output's scaling.
//
// `Product` (each instruction set has its own) multiplies a step: 4 inputs × some outputs, unsigned weights × signed
// counts. Its accumulators may be narrow and hold `period` steps before they must be drained into int32.

// Counts of `rows` tokens → [steps][rows][4], a step being the even or the odd inputs of a word.
SPIKECONV_HD void panel_word(uint64_t word, int8_t* even, int8_t* odd) {
  for (int j = 0; j < 4; ++j) {
    even[j] = int8_t(word >> 16 * j & 255);
    odd[j] = int8_t(word >> (16 * j + 8) & 255);
  }
}

template <class Count, class Plane>
SPIKECONV_HD void panel_plane(const Count* counts, int64_t in, int64_t rows, int8_t* data, Plane plane) {
  const int64_t words = ceil_div(in, kWordInputs);
  for (int64_t r = 0; r < rows; ++r) {
    const Count* row = counts + r * in;
    for (int64_t w = 0; w < words; ++w) {
      int8_t k[kWordInputs] = {};
      const int64_t n = least<int64_t>(kWordInputs, in - w * kWordInputs);
      if (n == kWordInputs)
        for (int i = 0; i < kWordInputs; ++i) k[i] = plane(row[w * kWordInputs + i]);
      else
        for (int64_t i = 0; i < n; ++i) k[i] = plane(row[w * kWordInputs + i]);
      uint64_t word;
      __builtin_memcpy(&word, k, sizeof word);
      int8_t* step = data + (2 * w * rows + r) * kStepInputs;
      panel_word(word, step, step + rows * kStepInputs);
    }
  }
}

void make_panel(const void* counts, bool wide, int64_t in, int64_t tokens, int8_t* data, int32_t* sums) {
  const int64_t padded = ceil_div(in, kWordInputs) * kWordInputs;
  for (int plane = 0; plane < (wide ? 2 : 1); ++plane)
    for (int64_t t = 0; t < tokens; t += Product::kRows) {
      const int64_t rows = least<int64_t>(Product::kRows, tokens - t);
      int8_t* out = data + (plane * tokens + t) * padded;
      if (!wide)
        panel_plane(static_cast<const int8_t*>(counts) + t * in, in, rows, out, [](int k) { return int8_t(k); });
      else if (plane == 0)
        panel_plane(static_cast<const int16_t*>(counts) + t * in, in, rows, out, high_plane);
      else
        panel_plane(static_cast<const int16_t*>(counts) + t * in, in, rows, out, low_plane);
    }
  for (int64_t t = 0; t < tokens; ++t) {
    int32_t sum = 0;
    if (wide)
      for (int64_t i = 0; i < in; ++i) sum += static_cast<const int16_t*>(counts)[t * in + i];
    else
      for (int64_t i = 0; i < in; ++i) sum += static_cast<const int8_t*>(counts)[t * in + i];
    sums[t] = sum;
  }
}

// acc[rows][16] += weights [steps][64 bytes] × panel [steps][rows][4].
template <class P, int rows>
void multiply(const uint8_t* w, const int8_t* k, int64_t steps, int64_t period, int32_t* acc, int64_t stride) {
  for (int64_t begin = 0; begin < steps; begin += period) {
    const int64_t end = least(begin + period, steps);
    typename P::Acc sum[rows][P::kVectors];
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
      SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v) sum[r][v] = P::zero();
    for (int64_t s = begin; s < end; ++s) {
      typename P::Weights weights[P::kVectors];
      SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v)
        weights[v] = P::weights(w + s * kStepBytes + v * P::kBytes);
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
        const auto counts = P::counts(k + (s * rows + r) * kStepInputs);
        SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v) P::add(sum[r][v], weights[v], counts);
      }
    }
    SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
      SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v)
        P::drain(sum[r][v], acc + r * stride + v * (P::kBytes / kStepInputs));
  }
}

// The same straight from nibbles, for few tokens: a weight is read once and never stored unpacked.
template <class P, int rows>
void stream(const uint8_t* w, const int8_t* k, int64_t steps, int64_t period, int32_t* acc, int64_t stride) {
  constexpr int kChains = P::kChains;  // 2: even and odd inputs add up apart, where an addition takes long
  for (int64_t begin = 0; begin < steps / 2; begin += period / 2) {
    const int64_t end = least(begin + period / 2, steps / 2);
    typename P::Acc sum[kChains][rows][P::kVectors];
    SPIKECONV_UNROLL for (int c = 0; c < kChains; ++c)
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
        SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v) sum[c][r][v] = P::zero();
    for (int64_t word = begin; word < end; ++word) {
      const uint8_t* row = w + word * kStepBytes;
      const int8_t* counts = k + 2 * word * rows * kStepInputs;
      __builtin_prefetch(row + 2048);
      SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v) {
        typename P::Weights even, odd;
        P::nibbles(row + v * P::kBytes, even, odd);
        SPIKECONV_UNROLL for (int r = 0; r < rows; ++r) {
          P::add(sum[0][r][v], even, P::counts(counts + r * kStepInputs));
          P::add(sum[kChains - 1][r][v], odd, P::counts(counts + (rows + r) * kStepInputs));
        }
      }
    }
    SPIKECONV_UNROLL for (int c = 0; c < kChains; ++c)
      SPIKECONV_UNROLL for (int r = 0; r < rows; ++r)
        SPIKECONV_UNROLL for (int v = 0; v < P::kVectors; ++v)
          P::drain(sum[c][r][v], acc + r * stride + v * (P::kBytes / kStepInputs));
  }
}

typedef void (*Multiply)(const uint8_t*, const int8_t*, int64_t, int64_t, int32_t*, int64_t);

template <class P, int rows>
Multiply multiply_of(int64_t wanted) {
  if constexpr (rows == 0)
    return nullptr;
  else
    return wanted == rows ? multiply<P, rows> : multiply_of<P, rows - 1>(wanted);
}

template <class P, int rows>
Multiply stream_of(int64_t wanted) {
  if constexpr (rows == 0)
    return nullptr;
  else
    return wanted == rows ? stream<P, rows> : stream_of<P, rows - 1>(wanted);
}

// Steps [begin, end) of `tiles` tiles as bytes: out[tile][step][64].
void unpack(const Weight& w, int64_t tile, int64_t tiles, int64_t begin, int64_t end, uint8_t* out) {
  const int64_t words = ceil_div(w.in_features, kWordInputs);
  if (!w.columns) {
    for (int64_t t = 0; t < tiles; ++t) {
      const uint8_t* row = w.data + ((tile + t) * words + begin / 2) * kStepBytes;
      for (int64_t s = begin; s < end; s += 2, row += kStepBytes, out += 2 * kStepBytes)
        for (int i = 0; i < kStepBytes; ++i) {
          out[i] = row[i] & 15;
          out[kStepBytes + i] = row[i] >> 4;
        }
    }
    return;
  }
  const int64_t first = tile * kTileOutputs, steps = end - begin;
  const int64_t outputs = least(tiles * kTileOutputs, w.out_features - first);
  for (int64_t s = begin; s < end; ++s)
    for (int lane = 0; lane < kStepInputs; ++lane) {
      const int64_t input = step_input(s, lane);
      if (input >= w.in_features) continue;  // counts there are zero
      const uint8_t* column = w.data + input * w.stride;
      uint8_t* to = out + (s - begin) * kStepBytes + lane;
      for (int64_t o = 0; o < outputs; ++o)
        to[o / kTileOutputs * steps * kStepBytes + o % kTileOutputs * kStepInputs] =
            is_nibble(w.bits) ? uint8_t(column_nibble(column, first + o)) : column[first + o];
    }
}

uint16_t float_to_half(float x) {
  const _Float16 h = _Float16(x);
  uint16_t bits;
  __builtin_memcpy(&bits, &h, 2);
  return bits;
}

// Accumulators [n] of one token, outputs from `first` on → the output tensor.
void write_output(const Output& out, int bits, int32_t count_sum, int64_t token, int64_t first, int64_t n,
                  int32_t* acc) {
  for (int64_t i = 0; i < n; ++i) acc[i] = without_offset(acc[i], count_sum, bits);
  if (out.zero)
    for (int64_t i = 0; i < n; ++i) acc[i] = without_zero(acc[i], out.zero[token], out.weight_sum[first + i]);
  const int64_t at = token * out.stride + first;
  if (!out.scale) {
    __builtin_memcpy(static_cast<int32_t*>(out.data) + at, acc, size_t(n) * 4);
    return;
  }
  float* y = reinterpret_cast<float*>(acc);
  const float scale = out.scale[token];
  const float* weight_scale = out.weight_scale + first;
  for (int64_t i = 0; i < n; ++i) y[i] = output_of(acc[i], scale, weight_scale[i]);
  if (out.bias) {
    float bias[kTileOutputs * kColumnTiles];
    for (int64_t i = 0; i < n; i += kTileOutputs * kColumnTiles) {
      const int64_t m = least(kTileOutputs * kColumnTiles, n - i);
      load_row(out.bias, out.bias_dtype, first + i, m, bias);
      for (int64_t j = 0; j < m; ++j) y[i + j] += bias[j];
    }
  }
  if (out.dtype == Dtype::float32)
    __builtin_memcpy(static_cast<float*>(out.data) + at, y, size_t(n) * 4);
  else if (out.dtype == Dtype::bfloat16)
    for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(out.data)[at + i] = float_to_bfloat(y[i]);
  else
    for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(out.data)[at + i] = float_to_half(y[i]);
}

// One group of tiles against a whole panel; acc is [tokens][tiles · 16].
template <class P>
void multiply_tiles(const Weight& w, const Panel& panel, int64_t tile, int64_t tiles, int64_t period, int32_t* acc,
                    uint8_t* unpacked) {
  const int64_t width = tiles * kTileOutputs, bytes = panel.steps * kStepInputs;
  const bool streamed = !w.columns && is_nibble(w.bits) && panel.tokens <= Product::kStreamRows;
  const bool in_place = streamed || (!w.columns && !is_nibble(w.bits));
  const int64_t block = in_place ? panel.steps : w.columns ? kStepBlock / 4 : kStepBlock;
  for (int plane = 0; plane < panel.planes; ++plane) {
    if (plane)
      for (int64_t i = 0; i < panel.tokens * width; ++i) acc[i] = multiply_wrapped(acc[i], kPlane);
    for (int64_t begin = 0; begin < panel.steps; begin += block) {
      const int64_t end = least(begin + block, panel.steps);
      if (!in_place) unpack(w, tile, tiles, begin, end, unpacked);
      for (int64_t t = 0; t < tiles; ++t) {
        const uint8_t* weights = in_place ? w.data + (tile + t) * panel.steps * kStepBytes / (streamed ? 2 : 1)
                                          : unpacked + t * (end - begin) * kStepBytes;
        for (int64_t token = 0; token < panel.tokens; token += P::kRows) {
          const int64_t rows = least<int64_t>(P::kRows, panel.tokens - token);
          const int8_t* counts = panel.data + (plane * panel.tokens + token) * bytes + begin * rows * kStepInputs;
          const Multiply run = streamed ? stream_of<P, Product::kStreamRows>(rows) : multiply_of<P, P::kRows>(rows);
          run(weights, counts, end - begin, period, acc + token * width + t * kTileOutputs, width);
        }
      }
    }
  }
}

void dense(const Weight& w, const Panel& panel, const Output& out, int64_t tile_begin, int64_t tile_end,
           void* scratch) {
  int32_t* acc = static_cast<int32_t*>(scratch);
  uint8_t* unpacked = reinterpret_cast<uint8_t*>(acc + kPanelTokens * kTileOutputs * kColumnTiles);
  const int64_t group = w.columns ? kColumnTiles : 1;
  const int64_t period = Product::period((1 << w.bits) - 1, panel.largest);
  for (int64_t tile = tile_begin; tile < tile_end; tile += group) {
    const int64_t tiles = least(group, tile_end - tile), width = tiles * kTileOutputs;
    __builtin_memset(acc, 0, size_t(panel.tokens * width) * 4);
    if (period)
      multiply_tiles<Product>(w, panel, tile, tiles, period, acc, unpacked);
    else
      multiply_tiles<WideProduct>(w, panel, tile, tiles, INT64_MAX / 2, acc, unpacked);
    const int64_t first = tile * kTileOutputs, n = least(width, w.out_features - first);
    for (int64_t token = 0; token < panel.tokens; ++token)
      write_output(out, w.bits, panel.sums[token], token, first, n, acc + token * width);
  }
}
