// Sums of four columns of nibbles, kBytes of each at a time, for vectors of bytes. Their raw bytes are interleaved two
// by two and split into nibbles then: two shuffles a pair and line instead of four. The sums stay as they come out: of
// the lower halves of every 16 bytes the even outputs, then the odd ones, then of the upper halves.
struct ColumnSum {
  static constexpr int kColumns = 4, kBytes = 4 * kLanes, kSums = 2 * kBytes;

  static void add(const uint8_t* const* now, const uint8_t* const* next, const int* counts, int64_t bytes,
                  int16_t* sums) {
    Shorts k[2];
    for (int p = 0; p < 2; ++p) k[p] = Shorts{} + int16_t((counts[2 * p] & 255) | counts[2 * p + 1] * 256);
    int64_t i = 0;
    for (; i + kBytes <= bytes; i += kBytes, sums += kSums) {
      if (kBytes == 64 || i % 64 == 0)
        SPIKECONV_UNROLL for (int j = 0; j < kColumns; ++j) __builtin_prefetch(next[j] + i, 0, 2);
      add_bytes(now[0] + i, now[1] + i, now[2] + i, now[3] + i, k, sums);
    }
    if (i == bytes) return;
    uint8_t rest[kColumns][kBytes] = {};
    for (int j = 0; j < kColumns; ++j) {
      __builtin_prefetch(next[j] + i, 0, 2);
      __builtin_memcpy(rest[j], now[j] + i, size_t(bytes - i));
    }
    add_bytes(rest[0], rest[1], rest[2], rest[3], k, sums);
  }

  SPIKECONV_HD void add_bytes(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, const Shorts* k,
                              int16_t* sums) {
    const ByteLanes columns[4] = {load<ByteLanes>(a), load<ByteLanes>(b), load<ByteLanes>(c), load<ByteLanes>(d)};
    Shorts sum[4];
    SPIKECONV_UNROLL for (int j = 0; j < 4; ++j) sum[j] = load<Shorts>(sums + 2 * kLanes * j);
    SPIKECONV_UNROLL for (int p = 0; p < 2; ++p)
      SPIKECONV_UNROLL for (int h = 0; h < 2; ++h) {
        const ByteLanes both = h ? interleave_high(columns[2 * p], columns[2 * p + 1])
                                 : interleave_low(columns[2 * p], columns[2 * p + 1]);
        sum[2 * h] += multiply_pairs(both & 15, k[p]);
        sum[2 * h + 1] += multiply_pairs((ByteLanes)((Naturals)both >> 4) & 15, k[p]);
      }
    SPIKECONV_UNROLL for (int j = 0; j < 4; ++j) store(sums + 2 * kLanes * j, sum[j]);
  }

  // acc[kSums] += sums, in the order of outputs; sums = 0.
  static void drain(int16_t* sums, int32_t* acc) {
    typedef int16_t Eight __attribute__((vector_size(16)));
    typedef uint32_t EightInts __attribute__((vector_size(32)));
    for (int h = 0; h < 2; ++h)
      for (int lane = 0; lane < kBytes / 16; ++lane) {
        const int16_t* from = sums + 4 * kLanes * h + 8 * lane;
        const Eight even = load<Eight>(from), odd = load<Eight>(from + 2 * kLanes);
#if defined(__clang__)
        const Eight low = __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
        const Eight high = __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
#else
        const Eight low = __builtin_shuffle(even, odd, Eight{0, 8, 1, 9, 2, 10, 3, 11});
        const Eight high = __builtin_shuffle(even, odd, Eight{4, 12, 5, 13, 6, 14, 7, 15});
#endif
        int32_t* to = acc + 32 * lane + 16 * h;
        store(to, load<EightInts>(to) + __builtin_convertvector(low, EightInts));
        store(to + 8, load<EightInts>(to + 8) + __builtin_convertvector(high, EightInts));
      }
    __builtin_memset(sums, 0, kSums * sizeof(*sums));
  }
};
