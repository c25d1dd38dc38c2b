// One token against a weight in columns: only the columns of inputs that fired are read.

// acc[o] += count · column[o] for outputs [begin, end), any width.
void add_column(const Weight& w, int64_t input, int count, int64_t begin, int64_t end, int32_t* acc) {
  const uint8_t* column = w.data + input * w.stride;
  if (is_nibble(w.bits))
    for (int64_t o = begin; o < end; ++o) acc[o - begin] += count * int32_t(column_nibble(column, o));
  else
    for (int64_t o = begin; o < end; ++o) acc[o - begin] += count * int32_t(column[o]);
}

// Columns are taken in batches: every output tile stays in registers while a batch of columns goes by, and the columns
// of the next batch are already on their way from memory.
void events(const Weight& w, const int32_t* index, const int16_t* count, int64_t fired, int32_t count_sum,
            const Output& out, int64_t token, int64_t begin, int64_t end, int32_t* acc) {
  __builtin_memset(acc, 0, size_t(end - begin) * 4);
  int lowest = -1, highest = 1;
  for (int64_t e = 0; e < fired; ++e) lowest = least<int>(lowest, count[e]), highest = most<int>(highest, count[e]);
  const int64_t fit = ColumnSum::batch((1 << w.bits) - 1, most(-lowest, highest));
  const int64_t batch = highest > INT8_MAX ? 0 : least<int64_t>(ColumnSum::kBatch, fit);
  int64_t done = 0;
  if (is_nibble(w.bits) && batch >= 2) {
    const int64_t whole = (end - begin) / ColumnSum::kOutputs * ColumnSum::kOutputs;
    for (; done < fired; done += batch) {
      const int64_t n = least(batch, fired - done), next = least(batch, fired - done - n);
      for (int64_t o = 0; o < whole; o += ColumnSum::kOutputs) {
        for (int64_t e = 0; e < next; ++e)
          if (o % 128 == 0) __builtin_prefetch(w.data + index[done + n + e] * w.stride + (begin + o) / 2, 0, 2);
        ColumnSum::add(w.data + (begin + o) / 2, w.stride, index + done, count + done, n, acc + o);
      }
      for (int64_t e = done; e < done + n; ++e) add_column(w, index[e], count[e], begin + whole, end, acc + whole);
    }
  }
  for (; done < fired; ++done) add_column(w, index[done], count[done], begin, end, acc);
  write_output(out, w.bits, count_sum, token, begin, end - begin, acc);
}
