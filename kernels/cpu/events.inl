// One token against a weight in columns: only the columns of inputs that fired are read.

// acc[o] += count · column[o] for outputs [begin, end), any width.
void add_column(const Weight& w, int64_t input, int count, int64_t begin, int64_t end, int32_t* acc) {
  const uint8_t* column = w.data + input * w.stride;
  if (is_nibble(w.bits))
    for (int64_t o = begin; o < end; ++o)
      acc[o - begin] = add_wrapped(acc[o - begin], count * int32_t(column_nibble(column, o)));
  else
    for (int64_t o = begin; o < end; ++o) acc[o - begin] = add_wrapped(acc[o - begin], count * int32_t(column[o]));
}

// Four columns at a time run past sums that stay in the first-level cache, so that memory sees four long streams. The
// sums are as narrow as the instruction set likes them, in its own order, and are drained before they could overflow.
void events(const Weight& w, const int32_t* index, const int16_t* count, int64_t fired, int32_t count_sum,
            const Output& out, int64_t token, int64_t begin, int64_t end, int32_t* acc, void* sums) {
  __builtin_memset(acc, 0, size_t(end - begin) * 4);
  int lowest = -1, highest = 1;
  for (int64_t e = 0; e < fired; ++e) lowest = least<int>(lowest, count[e]), highest = most<int>(highest, count[e]);
  const int64_t period = ColumnSum::period((1 << w.bits) - 1, most(-lowest, highest)) / ColumnSum::kColumns *
                         ColumnSum::kColumns;
  int64_t done = 0;
  if (is_nibble(w.bits) && lowest >= INT8_MIN && highest <= INT8_MAX && period) {
    const int64_t whole = (end - begin) / ColumnSum::kOutputs * ColumnSum::kOutputs;
    const uint8_t* base = w.data + begin / 2;
    for (int64_t stop; done < fired; done = stop) {
      stop = least(done + period, fired);
      __builtin_memset(sums, 0, size_t(whole) * sizeof(ColumnSum::Sum));
      for (int64_t e = done; e < stop; e += ColumnSum::kColumns) {
        const uint8_t* columns[ColumnSum::kColumns];
        int counts[ColumnSum::kColumns] = {};
        for (int j = 0; j < ColumnSum::kColumns; ++j) {
          const bool here = e + j < stop;
          columns[j] = base + index[here ? e + j : e] * w.stride;
          if (here) counts[j] = count[e + j];
          if (e + j + ColumnSum::kColumns < fired)
            for (int64_t line = 0; line < 256; line += 64)
              __builtin_prefetch(base + index[e + j + ColumnSum::kColumns] * w.stride + line);
        }
        ColumnSum::add(columns, counts, whole, static_cast<ColumnSum::Sum*>(sums));
      }
      ColumnSum::drain(static_cast<const ColumnSum::Sum*>(sums), whole, acc);
    }
    for (int64_t e = 0; e < fired; ++e) add_column(w, index[e], count[e], begin + whole, end, acc + whole);
  }
  for (; done < fired; ++done) add_column(w, index[done], count[done], begin, end, acc);
  write_row(out, w.bits, count_sum, token, begin, end - begin, acc);
}
