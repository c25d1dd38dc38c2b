// Counts in the order in which a register tile reads them: [planes][words][even, odd inputs][rows of the tile][4].

// Bytes of one row → every `rows`-th place of a row tile.
template <class P>
void pack_row(const int8_t* row, int64_t inputs, int64_t rows, int8_t* out) {
  const int64_t whole = inputs / kWordInputs;
  const auto put = [&](int64_t w, uint64_t word) __attribute__((always_inline)) {
    uint32_t even, odd;
    P::split(word, even, odd);
    int8_t* to = out + w * rows * kWordInputs;
    __builtin_memcpy(to, &even, sizeof even);
    __builtin_memcpy(to + rows * kStepInputs, &odd, sizeof odd);
  };
  uint64_t word;
  for (int64_t w = 0; w < whole; ++w) {
    __builtin_memcpy(&word, row + w * kWordInputs, sizeof word);
    put(w, word);
  }
  if (inputs == whole * kWordInputs) return;
  word = 0;  // behind the last input counts are taken as 0
  __builtin_memcpy(&word, row + whole * kWordInputs, size_t(inputs - whole * kWordInputs));
  put(whole, word);
}

// The same for a plane of counts beyond a byte.
template <class P, class Plane>
void pack_plane(const int16_t* row, int64_t inputs, int64_t rows, int8_t* out, Plane plane) {
  constexpr int64_t kPart = 64 * kWordInputs;
  int8_t bytes[kPart];
  for (int64_t begin = 0; begin < inputs; begin += kPart) {
    const int64_t n = least(kPart, inputs - begin);
    for (int64_t i = 0; i < n; ++i) bytes[i] = plane(row[begin + i]);
    pack_row<P>(bytes, n, rows, out + begin * rows);
  }
}

// One row tile: counts [rows, in] of int8, or of int16 if wide.
void pack(const void* counts, bool wide, int64_t in, int64_t rows, int8_t* data, int32_t* sums) {
  const int64_t plane = rows * ceil_div(in, kWordInputs) * kWordInputs;
  for (int64_t r = 0; r < rows; ++r) {
    int8_t* to = data + r * kStepInputs;
    if (wide) {
      const int16_t* row = static_cast<const int16_t*>(counts) + r * in;
      pack_plane<Product>(row, in, rows, to, high_plane);
      pack_plane<Product>(row, in, rows, to + plane, low_plane);
      sums[r] = count_sum(row, in);
    } else {
      const int8_t* row = static_cast<const int8_t*>(counts) + r * in;
      pack_row<Product>(row, in, rows, to);
      sums[r] = count_sum(row, in);
    }
  }
}
