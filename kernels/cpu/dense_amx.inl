// Dense products of register tiles: 32 tokens × 32 outputs at a time, or 16 × 64.

constexpr int64_t kDepth = amx::kBytes;  // inputs of a register
constexpr int64_t kDepthWords = kDepth / kWordInputs;
constexpr int64_t kRegisterBytes = amx::kRows * amx::kBytes;

constexpr int kTileRows = 2 * amx::kRows;

// Eight words of counts with the even inputs of each in front of the odd ones, as weights have them.
SPIKECONV_HD void split_depth(const int8_t* from, int8_t* to) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  _mm512_storeu_si512(to, _mm512_shuffle_epi8(_mm512_loadu_si512(from), _mm512_broadcast_i32x4(order)));
}

// One row of a plane → every `rows`-th register row; zeros behind the last input.
template <class T, class Plane>
void pack_registers(const T* row, int64_t inputs, int64_t rows, int8_t* out, Plane plane) {
  alignas(64) int8_t bytes[kDepth];
  for (int64_t i = 0; i < inputs; i += kDepth, out += rows * kDepth) {
    const int64_t n = least(kDepth, inputs - i);
    const int8_t* from = bytes;
    if constexpr (sizeof(T) == 1)
      if (n == kDepth) {
        split_depth(row + i, out);
        continue;
      }
    if (n < kDepth) __builtin_memset(bytes, 0, sizeof bytes);
    for (int64_t j = 0; j < n; ++j) bytes[j] = plane(row[i + j]);
    split_depth(from, out);
  }
}

// One row tile [planes][depths][rows][64] of counts [rows, in].
void pack(const void* counts, bool wide, int64_t in, int64_t rows, int8_t* data, int32_t* sums) {
  const int64_t plane = rows * ceil_div(in, kDepth) * kDepth;
  for (int64_t r = 0; r < rows; ++r) {
    int8_t* to = data + r * kDepth;
    if (wide) {
      const int16_t* row = static_cast<const int16_t*>(counts) + r * in;
      pack_registers(row, in, rows, to, high_plane);
      pack_registers(row, in, rows, to + plane, low_plane);
      sums[r] = count_sum(row, in);
    } else {
      const int8_t* row = static_cast<const int8_t*>(counts) + r * in;
      pack_registers(row, in, rows, to, [](int8_t k) { return k; });
      sums[r] = count_sum(row, in);
    }
  }
}

// A panel's tiles, `stride` bytes apart, as registers: out[depths][kPanelTiles][16 steps][16 outputs][4]
void unpack_panel(const uint8_t* weights, int64_t stride, bool nibble, int64_t words, int64_t tiles, uint8_t* out) {
  for (int64_t first = 0; first < words; first += kDepthWords, out += kPanelTiles * kRegisterBytes)
    for (int64_t t = 0; t < tiles; ++t) {
      const uint8_t* from = weights + t * stride + first * word_bytes(nibble);
      uint8_t* to = out + t * kRegisterBytes;
      const int64_t here = least(kDepthWords, words - first);
      if (!nibble) {
        __builtin_memcpy(to, from, size_t(here * word_bytes(false)));
        continue;
      }
      for (int64_t word = 0; word < here; ++word, from += kStepBytes, to += 2 * kStepBytes) {
        const __m512i both = _mm512_loadu_si512(from), low = _mm512_set1_epi8(15);
        _mm512_store_si512(to, _mm512_and_si512(both, low));
        _mm512_store_si512(to + kStepBytes, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
      }
    }
}

// total[32 or 16 rows][64 outputs] of a row tile.
template <bool both>
void multiply_panel(const PackedCounts& counts, int64_t token, int64_t rows, const uint8_t* weights, int64_t tiles,
                    int32_t* total) {
  constexpr int64_t kStride = kPanelOutputs * sizeof(int32_t);
  constexpr int64_t kTogether = both ? 2 : 4;  // tiles
  const int64_t depths = counts.words / kDepthWords;
  for (int64_t t = 0; t < tiles; t += kTogether) {
    const int8_t* a = counts.tile(token);
    int32_t* to = total + t * kTileOutputs;
    const auto sums = [&](auto move) __attribute__((always_inline)) {
      move.template operator()<0>(to);
      move.template operator()<1>(to + kTileOutputs);
      move.template operator()<2>(both ? to + amx::kRows * kPanelOutputs : to + 2 * kTileOutputs);
      move.template operator()<3>(both ? to + amx::kRows * kPanelOutputs + kTileOutputs : to + 3 * kTileOutputs);
    };
    amx::zero<0>(), amx::zero<1>(), amx::zero<2>(), amx::zero<3>();
    for (int plane = 0; plane < counts.planes; ++plane) {
      if (plane) {
        sums([]<int r>(int32_t* at) { amx::store<r>(at, kStride); });
        for (int64_t r = 0; r < (both ? 2 : 1) * amx::kRows; ++r)
          for (int32_t* at = to + r * kPanelOutputs; at < to + r * kPanelOutputs + kTogether * kTileOutputs; at += kLanes)
            store(at, mul_ints(load<Ints>(at), splat_bits(kPlane)));
        sums([]<int r>(int32_t* at) { amx::load<r>(at, kStride); });
      }
      const uint8_t* b = weights + t * kRegisterBytes;
      for (int64_t d = 0; d < depths; ++d, a += rows * kDepth, b += kPanelTiles * kRegisterBytes) {
        amx::load<4>(a, kDepth);
        if constexpr (both) {
          amx::load<6>(b, amx::kBytes);
          amx::multiply_bytes<0, 4, 6>();
          amx::load<7>(b + kRegisterBytes, amx::kBytes);
          amx::multiply_bytes<1, 4, 7>();
          amx::load<5>(a + amx::kRows * kDepth, kDepth);
          amx::multiply_bytes<2, 5, 6>();
          amx::multiply_bytes<3, 5, 7>();
        } else {
          amx::load<6>(b, amx::kBytes);
          amx::multiply_bytes<0, 4, 6>();
          amx::load<7>(b + kRegisterBytes, amx::kBytes);
          amx::multiply_bytes<1, 4, 7>();
          amx::load<5>(b + 2 * kRegisterBytes, amx::kBytes);
          amx::multiply_bytes<2, 4, 5>();
          amx::load<6>(b + 3 * kRegisterBytes, amx::kBytes);
          amx::multiply_bytes<3, 4, 6>();
        }
      }
    }
    sums([]<int r>(int32_t* at) { amx::store<r>(at, kStride); });
  }
}

// The weights of a panel are unpacked once, into the second-level cache.
void dense(const Weight& w, const PackedCounts& counts, const Output& out, int64_t panel, int64_t begin, int64_t end,
           void* scratch) {
  const bool nibble = is_nibble(w.bits);
  const int64_t words = ceil_div(w.in_features, kWordInputs), stride = words * word_bytes(nibble);
  const int64_t first = panel * kPanelOutputs, outputs = least(kPanelOutputs, w.out_features - first);
  const int64_t tiles = ceil_div(outputs, kTileOutputs);
  const uint8_t* weights = w.data + panel * kPanelTiles * stride;
  uint8_t* registers = static_cast<uint8_t*>(scratch);
  if (w.columns) {
    uint8_t* arranged = registers + ceil_div(words, kDepthWords) * kPanelTiles * kRegisterBytes;
    tiles_of_columns(w, panel, arranged);
    weights = arranged;
  }
  unpack_panel(weights, stride, nibble, words, tiles, registers);
  float bias[kPanelOutputs] = {};
  if (out.bias) load_row(out.bias, out.bias_dtype, first, outputs, bias);
  alignas(64) int32_t total[kTileRows * kPanelOutputs];
  amx::configure();
  for (int64_t token = begin; token < end; token += kTileRows) {
    const int64_t rows = least<int64_t>(kTileRows, end - token);
    (rows > amx::kRows ? multiply_panel<true> : multiply_panel<false>)(counts, token, rows, registers, tiles, total);
    write_tile(w, counts, out, {nullptr, 0, first, kTileOutputs, nullptr, token, bias}, int(rows), kPanelOutputs / kLanes,
               kTileOutputs / kLanes, reinterpret_cast<const Ints*>(total));
  }
  amx::release();
}

// For the benchmarks: products of registers, without memory.
int64_t peak(int64_t rounds) {
  amx::configure();
  amx::zero<4>(), amx::zero<5>(), amx::zero<6>(), amx::zero<7>();
  for (int64_t r = 0; r < rounds; ++r) {
    amx::multiply_bytes<0, 4, 6>();
    amx::multiply_bytes<1, 4, 7>();
    amx::multiply_bytes<2, 5, 6>();
    amx::multiply_bytes<3, 5, 7>();
  }
  amx::release();
  return rounds * 4 * amx::kRows * kDepth * kTileOutputs;
}
