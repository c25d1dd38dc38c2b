// One token against a weight in columns: only the columns of inputs that fired are read.

// Indices and counts of the non-zero counts [in].
template <class T>
void list_fired(const T* counts, int64_t in, int32_t* index, int16_t* count, Fired& fired) {
  int64_t n = 0;
  int32_t sum = 0;
  int lowest = 0, highest = 0;
  for (int64_t i = 0; i < in; ++i) {
    const int k = counts[i];
    index[n] = int32_t(i);
    count[n] = int16_t(k);
    n += k != 0;
    sum += k;
    lowest = least(lowest, k);
    highest = most(highest, k);
  }
  fired = {index, count, n, sum, most(-lowest, highest), lowest >= INT8_MIN && highest <= INT8_MAX};
}

#if defined(__AVX512F__)
// Compressed in registers: compressing into memory is microcode on Zen 4. Writes up to a vector behind the end.
void list_fired(const int8_t* counts, int64_t in, int32_t* index, int16_t* count, Fired& fired) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i sum = _mm512_setzero_si512(), largest = sum;
  int64_t n = 0;
  for (int64_t i = 0; i < in; i += 16) {
    const __mmask16 here = in - i >= 16 ? __mmask16(0xFFFF) : __mmask16((1u << (in - i)) - 1);
    const __m512i k = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(here, counts + i));
    const __mmask16 fires = _mm512_test_epi32_mask(k, k);
    const __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(int(i)));
    _mm512_storeu_si512(index + n, _mm512_maskz_compress_epi32(fires, at));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(count + n),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(fires, k)));
    sum = _mm512_add_epi32(sum, k);
    largest = _mm512_max_epi32(largest, _mm512_abs_epi32(k));
    n += __builtin_popcount(fires);
  }
  fired = {index, count, n, _mm512_reduce_add_epi32(sum), _mm512_reduce_max_epi32(largest), true};
}
#endif

void list(const void* counts, bool wide, int64_t in, int32_t* index, int16_t* count, Fired& fired) {
  if (wide)
    list_fired(static_cast<const int16_t*>(counts), in, index, count, fired);
  else
    list_fired(static_cast<const int8_t*>(counts), in, index, count, fired);
}

// acc[o] += count · column[o] for outputs [begin, end), any width.
void add_column(const Weight& w, int64_t input, int count, int64_t begin, int64_t end, int32_t* acc) {
  const uint8_t* column = w.data + input * w.stride;
  if (is_nibble(w.bits))
    for (int64_t o = begin; o < end; ++o)
      acc[o - begin] = add_wrapped(acc[o - begin], count * int32_t(column_nibble(column, o)));
  else
    for (int64_t o = begin; o < end; ++o) acc[o - begin] = add_wrapped(acc[o - begin], count * int32_t(column[o]));
}

// Four columns at a time run past 16-bit sums that stay in the first-level cache, in the order in which they come out,
// and are drained before they could overflow. What is read next is asked for line by line, for hardware cannot follow
// from column to column: so many columns ahead that what is on the way covers memory's latency, however short a column
// is.
void add_fired(const Weight& w, const Fired& fired, int64_t begin, int64_t end, int64_t first, int64_t bytes,
               int16_t* sums, int32_t* acc) {
  constexpr int64_t kOnTheWay = 8192, kStart = 2048;
  constexpr int kColumns = ColumnSum::kColumns;
  const int64_t pieces = ceil_div(bytes, ColumnSum::kBytes);
  const int64_t period = INT16_MAX / (((1 << w.bits) - 1) * fired.largest) / kColumns * kColumns;
  const int64_t ahead = ceil_div(kOnTheWay, kColumns * bytes) * kColumns;
  const uint8_t* base = w.data + first / 2;
  const auto column = [&](int64_t e) { return base + fired.index[least(e, end - 1)] * w.stride; };
  __builtin_memset(sums, 0, size_t(pieces * ColumnSum::kSums) * sizeof(*sums));
  for (int64_t e = begin; e < least(begin + ahead, end); ++e)
    for (int64_t i = 0; i < least(bytes, kStart); i += 64) __builtin_prefetch(column(e) + i);
  for (int64_t e = begin, full = 0; e < end; e += kColumns) {
    const uint8_t *now[kColumns], *next[kColumns];
    int counts[kColumns] = {};
    SPIKECONV_UNROLL for (int j = 0; j < kColumns; ++j) {
      now[j] = column(e + j);
      next[j] = column(e + j + ahead);
      if (e + j < end) counts[j] = fired.count[e + j];
    }
    ColumnSum::add(now, next, counts, bytes, sums);
    if ((full += kColumns) < period && e + kColumns < end) continue;
    for (int64_t piece = 0; piece < pieces; ++piece)
      ColumnSum::drain(sums + piece * ColumnSum::kSums, acc + piece * ColumnSum::kSums);
    full = 0;
  }
}

// acc = the sums of outputs [first, last) over events [begin, end) of a token.
void events(const Weight& w, const Fired& fired, int64_t begin, int64_t end, int64_t first, int64_t last, int32_t* acc,
            int16_t* sums) {
  constexpr int64_t kPieces = 96;  // whose sums, 24 KiB, leave room in the first-level cache
  const int64_t pieces = ceil_div(last - first, kEventOutputs);
  __builtin_memset(acc, 0, size_t(pieces * kEventOutputs) * sizeof(*acc));
  if (begin >= end) return;
  if (!is_nibble(w.bits) || !fired.narrow) {
    for (int64_t e = begin; e < end; ++e) add_column(w, fired.index[e], fired.count[e], first, last, acc);
    return;
  }
  for (int64_t part = 0, parts = ceil_div(pieces, kPieces); part < parts; ++part) {
    const int64_t low = pieces * part / parts * kEventOutputs, high = pieces * (part + 1) / parts * kEventOutputs;
    add_fired(w, fired, begin, end, first + low, ceil_div(least(high, last - first) - low, 2), sums, acc + low);
  }
}
