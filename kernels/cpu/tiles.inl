// What products of every kind share: where a panel's words lie, a weight in columns as tiles, sums on their way out.

constexpr int64_t word_bytes(bool nibble) { return nibble ? kStepBytes : 2 * kStepBytes; }

// Σ of a row of counts.
template <class T>
int32_t count_sum(const T* row, int64_t inputs) {
  int32_t sum = 0;
  for (int64_t i = 0; i < inputs; ++i) sum += row[i];
  return sum;
}

// Eight columns' 64 outputs as a word of four tiles: out[tile][…][16][4], tiles `stride` bytes apart.
void word_of_columns(const uint8_t (*column)[kPanelOutputs], bool nibble, int64_t stride, uint8_t* out) {
  uint32_t even[kPanelOutputs], odd[kPanelOutputs];
  const auto four = [&](int64_t j, int a, int b, int c, int d) __attribute__((always_inline)) {
    return uint32_t(column[a][j]) | uint32_t(column[b][j]) << 8 | uint32_t(column[c][j]) << 16 |
           uint32_t(column[d][j]) << 24;
  };
  if (nibble)  // byte j of a column is outputs 2j and 2j + 1
    for (int64_t j = 0; j < kPanelOutputs / 2; ++j) {
      const uint32_t low = four(j, 0, 2, 4, 6), high = four(j, 1, 3, 5, 7);
      even[2 * j] = (low & 0x0F0F0F0Fu) | (high & 0x0F0F0F0Fu) << 4;
      even[2 * j + 1] = (low >> 4 & 0x0F0F0F0Fu) | (high & 0xF0F0F0F0u);
    }
  else
    for (int64_t j = 0; j < kPanelOutputs; ++j) {
      even[j] = four(j, 0, 2, 4, 6);
      odd[j] = four(j, 1, 3, 5, 7);
    }
  for (int64_t t = 0; t < kPanelTiles; ++t, out += stride) {
    __builtin_memcpy(out, even + t * kTileOutputs, kStepBytes);
    if (!nibble) __builtin_memcpy(out + kStepBytes, odd + t * kTileOutputs, kStepBytes);
  }
}

// A panel of a weight in columns as tiles [kPanelTiles][words].
void tiles_of_columns(const Weight& w, int64_t panel, uint8_t* out) {
  const bool nibble = is_nibble(w.bits);
  const int64_t words = ceil_div(w.in_features, kWordInputs), first = panel * kPanelOutputs;
  const int64_t bytes = nibble ? ceil_div(least(kPanelOutputs, w.out_features - first), 2)
                               : least(kPanelOutputs, w.out_features - first);
  uint8_t column[kWordInputs][kPanelOutputs] = {};
  for (int64_t word = 0; word < words; ++word, out += word_bytes(nibble)) {
    for (int64_t i = 0; i < kWordInputs; ++i) {
      const int64_t input = word * kWordInputs + i;
      const uint8_t* from = w.data + input * w.stride + (nibble ? first / 2 : first);
      if (input >= w.in_features)
        __builtin_memset(column[i], 0, kPanelOutputs);
      else if (bytes == kPanelOutputs / 2)
        __builtin_memcpy(column[i], from, kPanelOutputs / 2);
      else
        __builtin_memcpy(column[i], from, size_t(bytes));
    }
    word_of_columns(column, nibble, words * word_bytes(nibble), out);
  }
}

// What a register tile takes: weights `stride` bytes from tile to tile, and its outputs `gap` from tile to tile.
struct Unit {
  const uint8_t* weights;
  int64_t stride, first, gap;  // first output
  const int8_t* counts;
  int64_t token;
  const float* bias;           // [tiles · 16] of the outputs
};

// Vectors of outputs that are written whole, `count` of them: the same for all tokens. `add` [count] is -0 where there is
// no bias: added, it changes no bit.
struct WholeLanes {
  int64_t first[kPanelOutputs / kLanes];
  Ints sum[kPanelOutputs / kLanes];
  Floats scale[kPanelOutputs / kLanes], add[kPanelOutputs / kLanes];
};

// total[rows][count], accumulators of the tokens from `token` on, row by row and without a branch inside.
template <Dtype dtype, bool zero>
void write_whole(const Output& out, const WholeLanes& lanes, int bits, const int32_t* sums, int64_t token, int rows,
                 int count, const Ints* total) {
  for (int r = 0; r < rows; ++r) {
    const TokenOutput of = token_output(out, bits, sums[r], token + r);
    const Ints offset = splat_bits(uint32_t(of.offset)), z = splat_bits(uint32_t(of.zero));
    const Floats scale = splat(of.scale);
    for (int j = 0; j < count; ++j) {
      Ints acc = sub_ints(total[r * count + j], offset);
      if constexpr (zero) acc = sub_ints(acc, mul_ints(z, lanes.sum[j]));
      const int64_t at = of.token * out.stride + lanes.first[j];
      if constexpr (dtype == Dtype::int32) {
        store(static_cast<int32_t*>(out.data) + at, acc);
      } else {
        const Floats y = to_floats(acc) * scale * lanes.scale[j] + lanes.add[j];
        if constexpr (dtype == Dtype::float32)
          store(static_cast<float*>(out.data) + at, y);
        else
          store(static_cast<uint16_t*>(out.data) + at, dtype == Dtype::bfloat16 ? to_bfloats(y) : to_halves(y));
      }
    }
  }
}

template <bool zero>
auto write_whole_of(const Output& out) {
  if (!out.scale) return write_whole<Dtype::int32, zero>;
  return out.dtype == Dtype::float32    ? write_whole<Dtype::float32, zero>
         : out.dtype == Dtype::bfloat16 ? write_whole<Dtype::bfloat16, zero> : write_whole<Dtype::float16, zero>;
}

// One function for all sizes, so that it stays in the instruction cache. total [rows][sums]; `vectors` of a tile
__attribute__((noinline)) void write_tile(const Weight& w, const PackedCounts& counts, const Output& out,
                                          const Unit& unit, int rows, int sums, int vectors, const Ints* total) {
  WholeLanes lanes;
  int whole = 0;
  const auto first_of = [&](int j) { return unit.first + j / vectors * unit.gap + j % vectors * kLanes; };
  for (int j = 0; j < sums; ++j) {
    const int64_t first = first_of(j);
    if (first + kLanes > w.out_features) break;
    const OutputLanes of = output_lanes(out, first, kLanes, unit.bias + j * kLanes);
    lanes.first[j] = first, lanes.sum[j] = of.sum, lanes.scale[j] = of.scale;
    lanes.add[j] = out.bias ? of.bias : splat(-0.0f);
    ++whole;
  }
  const int32_t* count_sums = counts.sums + unit.token;
  if (whole == sums)
    return (out.zero ? write_whole_of<true>(out) : write_whole_of<false>(out))(out, lanes, w.bits, count_sums, unit.token,
                                                                               rows, sums, total);
  for (int j = 0; j < sums; ++j) {
    const int64_t first = first_of(j);
    if (first >= w.out_features) break;
    const OutputLanes of = output_lanes(out, first, w.out_features - first, unit.bias + j * kLanes);
    for (int r = 0; r < rows; ++r)
      write_lanes(out, token_output(out, w.bits, count_sums[r], unit.token + r), of, total[r * sums + j]);
  }
}
