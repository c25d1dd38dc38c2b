// The checkpoint's packed weights: [out][ceil(in/8)][bits] bytes, the two's-complement values of 8 inputs in a row.
#pragma once

#include "layout.h"

namespace spikeconv {

// Stored (offset-binary) weight of input `lane` 0..7 of a packed word of `bits` bytes.
SPIKECONV_HD uint32_t stored_weight(const uint8_t* word, int bits, int lane) {
  const int first = bits * lane, byte = first / 8;
  uint32_t pair = word[byte];
  if (byte + 1 < bits) pair |= uint32_t(word[byte + 1]) << 8;  // a value may straddle two bytes
  return ((pair >> first % 8) & ((1u << bits) - 1)) ^ (1u << (bits - 1));
}

}  // namespace spikeconv
