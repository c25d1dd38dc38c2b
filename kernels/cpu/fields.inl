// Rows of counts (common/rows.h) in registers: 8 counts are a word of `bits` bytes, and a vector takes a word a lane.
//
// A count is not shifted to where it is used. The bits of field j are masked, and the integer they are there, the count
// times the field's unit 2^(bits · j), becomes a float, exactly; the unit is divided out of what it is multiplied with,
// or comes off the sum. So a vector of counts costs two instructions. The price is an order of its own ("position"):
// first the inputs 0 of the words of a block, then the inputs 1, ….
//
// So are 4-bit rows read. Counts of other widths are put into that order as floats first ("decoded"), as are those of 4
// bits where many queries use them.

typedef uint32_t Unsigned __attribute__((vector_size(4 * kLanes)));

// A word's bytes as a number; two loads of whole registers, where a copy would go through memory.
template <int bytes>
SPIKECONV_HD uint64_t word_of(const uint8_t* p) {
  if constexpr (bytes == 8)
    return load<uint64_t>(p);
  else if constexpr (bytes >= 4)
    return load<uint32_t>(p) | uint64_t(load<uint32_t>(p + bytes - 4)) >> 8 * (8 - bytes) << 32;
  else if constexpr (bytes == 3)
    return load<uint16_t>(p) | uint64_t(p[2]) << 16;
  else
    return load<uint16_t>(p);
}

template <int bits>
struct Words {
  static constexpr int kBytes = bits;                // of a word
  static constexpr int kFields = bits <= 4 ? 8 : 4;  // that fit a lane
  static constexpr int kParts = kWordInputs / kFields;
  Ints part[kParts];

  static constexpr bool is_top(int j) { return bits * (j % kFields + 1) == 32; }
  static constexpr float unit(int j) { return is_top(j) ? 1.0f : float(1 << bits * (j % kFields)); }

  // Highest bits of all fields: turned over, packed counts become stored ones.
  static constexpr uint32_t turn() {
    uint32_t bit = 0;
    for (int j = 0; j < kFields; ++j) bit |= 1u << (bits * (j + 1) - 1);
    return bit;
  }

  // The first `lanes` words as they are stored; what is in the other lanes is zero.
  SPIKECONV_HD Words of(const uint8_t* p, int64_t lanes) {
    Words words;
    if constexpr (bits == 4)
      words.part[0] = lanes == kLanes ? load<Ints>(p) : load_first(p, lanes);
    else
      words = gather(p, lanes);
    const Ints turned = splat_bits(turn());
    for (int h = 0; h < kParts; ++h) words.part[h] ^= lanes == kLanes ? turned : turned & first_lanes(lanes);
    return words;
  }

  SPIKECONV_HD Words gather(const uint8_t* p, int64_t lanes) {
    int32_t lane[kParts][kLanes] = {};
    for (int64_t i = 0; i < lanes; ++i) {
      const uint64_t word = word_of<bits>(p + i * bits);
      for (int h = 0; h < kParts; ++h) lane[h][i] = int32_t(uint32_t(word >> h * kFields * bits));
    }
    Words words;
    for (int h = 0; h < kParts; ++h) words.part[h] = load<Ints>(lane[h]);
    return words;
  }

  // What is kept of a lane for each field. Opaque: the compiler would make the constants anew for every row.
  struct Masks {
    Ints field[kFields];
  };
  SPIKECONV_HD Masks masks() {
    Masks masks;
    SPIKECONV_UNROLL for (int j = 0; j < kFields; ++j) {
      uint32_t mask = ((1u << bits) - 1) << bits * j;
      asm("" : "+r"(mask));
      masks.field[j] = splat_bits(mask);
    }
    return masks;
  }

  // Stored counts j of the words, times the field's unit.
  SPIKECONV_HD Floats field(const Words& words, int j, const Masks& masks) {
    const Ints v = words.part[j / kFields];
    if (is_top(j)) return to_floats((Ints)((Unsigned)v >> (32 - bits)));  // masked, it could be a negative integer
    return to_floats(v & masks.field[j % kFields]);
  }
};

// Words that have been decoded, in the order of positions.
struct Decoded {
  static constexpr int kBytes = kWordInputs * int(sizeof(float));
  const float* data;
  int64_t lanes;

  struct Masks {};
  SPIKECONV_HD Masks masks() { return {}; }
  static constexpr float unit(int) { return 1; }
  SPIKECONV_HD Decoded of(const uint8_t* p, int64_t lanes) { return {reinterpret_cast<const float*>(p), lanes}; }
  SPIKECONV_HD Floats field(const Decoded& words, int j, Masks) {
    return load_floats(words.data + j * words.lanes, words.lanes);
  }
};

// The words in which a group's counts lie, and how many counts of the first are not its own.
struct GroupWords {
  int64_t first, count, skipped;
};

GroupWords group_words(const RowShape& shape, int64_t group) {
  const int64_t begin = group * shape.group, first = begin / kWordInputs;
  return {first, ceil_div(begin + shape.group, kWordInputs) - first, begin % kWordInputs};
}

// Input i of a group: its field, and its place among `count` · 8 positions.
int field_of(const GroupWords& words, int64_t i) { return int((words.skipped + i) % kWordInputs); }

int64_t position_of(const GroupWords& words, int64_t i) {
  const int64_t word = (words.skipped + i) / kWordInputs, block = word / kLanes * kLanes;
  return block * kWordInputs + field_of(words, i) * least<int64_t>(kLanes, words.count - block) + word - block;
}

// Runs step(first word, lanes) over blocks of a word a lane; of all but the last the number of lanes is a constant.
template <class Step>
SPIKECONV_HD void for_blocks(int64_t words, Step step) {
  int64_t word = 0;
  for (; word + kLanes <= words; word += kLanes) step(word, std::integral_constant<int64_t, kLanes>());
  if (word < words) step(word, words - word);
}

constexpr int64_t kAhead = 4096;  // how many bytes on memory is asked for rows: about those of the next tile

// Some keys or values of one head, from the first word of a group on; strides in bytes.
struct RowSpan {
  const uint8_t* data;
  int64_t stride, count, words;
};

// dots[query][row] = Σ_i q[query][i] · (stored count i). Queries are in the order of positions, less the units, and
// followed by a vector of anything finite.
template <class W, int queries>
void dots(const RowSpan& rows, const float* q, int64_t q_stride, float* dots, int64_t dots_stride) {
  const auto masks = W::masks();
  for (int64_t row = 0; row < rows.count; ++row) {
    const uint8_t* data = rows.data + row * rows.stride;
    __builtin_prefetch(data + kAhead);
    Floats sum[queries][2] = {};
    for_blocks(rows.words, [&](int64_t word, auto lanes) __attribute__((always_inline)) {
      const W words = W::of(data + word * W::kBytes, lanes);
      const float* at = q + word * kWordInputs;
      SPIKECONV_UNROLL for (int j = 0; j < kWordInputs; ++j) {
        const Floats counts = W::field(words, j, masks);
        SPIKECONV_UNROLL for (int r = 0; r < queries; ++r)
          sum[r][j % 2] = multiply_add(load<Floats>(at + r * q_stride + j * lanes), counts, sum[r][j % 2]);
      }
    });
    SPIKECONV_UNROLL for (int r = 0; r < queries; ++r) dots[r * dots_stride + row] = lane_sum(sum[r][0] + sum[r][1]);
  }
}

// sums[query][i] += Σ_row weights[query][row] · (stored count i), in the order of positions. Behind the sums of a query
// there is room for a vector.
template <class W, int queries>
void weigh(const RowSpan& rows, const float* weights, int64_t weights_stride, float* sums, int64_t sums_stride) {
  const auto masks = W::masks();
  // As many fields at a time as there are registers for sums.
  constexpr int kFields = queries * 8 <= kSumRegisters ? 8 : queries * 4 <= kSumRegisters ? 4 : 2;
  for_blocks(rows.words, [&](int64_t word, auto lanes) __attribute__((always_inline)) {
    SPIKECONV_UNROLL for (int first = 0; first < kWordInputs; first += kFields) {
      Floats sum[queries][kFields] = {};
      for (int64_t row = 0; row < rows.count; ++row) {
        const uint8_t* data = rows.data + row * rows.stride + word * W::kBytes;
        __builtin_prefetch(data + kAhead);
        const W words = W::of(data, lanes);
        SPIKECONV_UNROLL for (int j = 0; j < kFields; ++j) {
          const Floats counts = W::field(words, first + j, masks);
          SPIKECONV_UNROLL for (int r = 0; r < queries; ++r)
            sum[r][j] = multiply_add(splat(weights[r * weights_stride + row]), counts, sum[r][j]);
        }
      }
      SPIKECONV_UNROLL for (int r = 0; r < queries; ++r)
        SPIKECONV_UNROLL for (int j = 0; j < kFields; ++j) {
          float* at = sums + r * sums_stride + word * kWordInputs + (first + j) * lanes;
          const float unit = 1 / W::unit(first + j);
          store(at, multiply_add(sum[r][j], splat(unit), load<Floats>(at)));
        }
    }
  });
}

// tile[row][i] = stored count i - offset[row], in the order of positions. Behind a row of the tile there is room for a
// vector.
template <int bits>
void decode(const RowSpan& rows, const float* offset, float* tile, int64_t tile_stride) {
  const auto masks = Words<bits>::masks();
  for (int64_t row = 0; row < rows.count; ++row) {
    const Floats less = splat(-offset[row]);
    for_blocks(rows.words, [&](int64_t word, auto lanes) __attribute__((always_inline)) {
      const auto words = Words<bits>::of(rows.data + row * rows.stride + word * bits, lanes);
      float* at = tile + row * tile_stride + word * kWordInputs;
      SPIKECONV_UNROLL for (int j = 0; j < kWordInputs; ++j)
        store(at + j * lanes, multiply_add(Words<bits>::field(words, j, masks), splat(1 / Words<bits>::unit(j)), less));
    });
  }
}

constexpr int kQueries = 4;  // that a row is read for at a time

// What reads rows of one width.
struct Reader {
  bool direct;  // whether the products below take rows as they are, or decoded ones
  float unit[kWordInputs];  // of the fields
  void (*dots[kQueries])(const RowSpan&, const float*, int64_t, float*, int64_t);
  void (*weigh[kQueries])(const RowSpan&, const float*, int64_t, float*, int64_t);
  void (*decode)(const RowSpan&, const float*, float*, int64_t);
};

template <int bits>
constexpr bool kDirect = bits == 4;

template <int bits, class W = std::conditional_t<kDirect<bits>, Words<bits>, Decoded>>
constexpr Reader kReader = {kDirect<bits>,
                            {W::unit(0), W::unit(1), W::unit(2), W::unit(3),  //
                             W::unit(4), W::unit(5), W::unit(6), W::unit(7)},
                            {dots<W, 1>, dots<W, 2>, dots<W, 3>, dots<W, 4>},
                            {weigh<W, 1>, weigh<W, 2>, weigh<W, 3>, weigh<W, 4>},
                            decode<bits>};

const Reader& reader_of(int bits) {
  static constexpr const Reader* kReaders[] = {&kReader<2>, &kReader<3>, &kReader<4>, &kReader<5>,
                                               &kReader<6>, &kReader<7>, &kReader<8>};
  return *kReaders[bits - 2];
}
