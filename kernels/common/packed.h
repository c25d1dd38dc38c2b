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

// Eight bytes → their low `bits` bits side by side.
SPIKECONV_HD uint64_t pack_word(uint64_t word, int bits) {
  const int spare = 8 - bits;
  word &= 0x0101010101010101u * ((1u << bits) - 1);
  word = (word & 0x00FF00FF00FF00FFu) | (word & 0xFF00FF00FF00FF00u) >> spare;
  word = (word & 0x0000FFFF0000FFFFu) | (word & 0xFFFF0000FFFF0000u) >> 2 * spare;
  return (word & 0x00000000FFFFFFFFu) | (word & 0xFFFFFFFF00000000u) >> 4 * spare;
}

}  // namespace spikeconv
