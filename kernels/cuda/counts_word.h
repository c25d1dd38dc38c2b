// Eight counts of a token, as the products take them: the even inputs in one register, the odd ones in another.
#pragma once

#include "device.h"
#include "kernels.h"

namespace spikeconv::cuda {

struct CountWord {
  uint32_t even, odd;
};

// value(k) of the counts of word `word`, 0 behind the last input.
template <class Count, class F>
SPIKECONV_DEVICE CountWord gather_word(const Count* row, int in_features, int word, F value) {
  CountWord result{0, 0};
#pragma unroll
  for (int j = 0; j < kWordInputs; ++j) {
    const int input = word * kWordInputs + j;
    const uint32_t byte = input < in_features ? uint32_t(uint8_t(value(int(row[input])))) << j / 2 * 8 : 0;
    (j % 2 ? result.odd : result.even) |= byte;
  }
  return result;
}

// The same for int8 counts whose rows are aligned to words.
SPIKECONV_DEVICE CountWord aligned_word(const int8_t* row, int word) {
  const uint2 raw = load_constant(reinterpret_cast<const uint2*>(row) + word);
  return {even_bytes(raw), odd_bytes(raw)};
}

inline bool words_are_aligned(const Counts& counts) {
  return !counts.wide && counts.in_features % kWordInputs == 0 && reinterpret_cast<uintptr_t>(counts.data) % 8 == 0;
}

}  // namespace spikeconv::cuda
