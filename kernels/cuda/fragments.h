// Operands of mma.m16n8k32 straight from tiles and panels.
//
// The PTX ISA gives lane (g = lane / 4, t = lane % 4) of A, 16 outputs × 32 inputs, rows g and g + 8, columns 4 t …
// 4 t + 3 and the same plus 16; of B, 32 inputs × 8 tokens, those columns as rows, for token g; of C, rows g and g + 8, columns
// 2 t and 2 t + 1. In which order the 32 inputs stand is ours to choose, as long as A and B agree: lane t takes word t
// of four, its even inputs as columns 4 t … and its odd ones as columns 16 + 4 t …, which is how both lie in memory.
#pragma once

#include "../common/layout.h"
#include "device.h"

namespace spikeconv::cuda {

constexpr int kStepWords = 4;  // words of eight inputs that one mma multiplies

SPIKECONV_DEVICE int fragment_group(int lane) { return lane / 4; }
SPIKECONV_DEVICE int fragment_word(int lane) { return lane % 4; }

// Output (of 16) and token (of 8) of register c_i.
SPIKECONV_DEVICE int fragment_output(int lane, int i) { return lane / 4 + i / 2 * 8; }
SPIKECONV_DEVICE int fragment_token(int lane, int i) { return lane % 4 * 2 + i % 2; }

SPIKECONV_DEVICE uint32_t word_at(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }

// `row`: the lane's row of a tile (16 outputs of one word), 4 bytes per output, or 2 × 4 bytes.
template <bool nibble>
SPIKECONV_DEVICE void weight_fragment(const uint8_t* row, int lane, uint32_t (&a)[4]) {
  const uint8_t *low = row + fragment_group(lane) * 4, *high = low + 8 * 4;
  if constexpr (nibble) {
    const uint32_t first = word_at(low), second = word_at(high);
    a[0] = even_inputs(first);
    a[1] = even_inputs(second);
    a[2] = odd_inputs(first);
    a[3] = odd_inputs(second);
  } else {
    a[0] = word_at(low);
    a[1] = word_at(high);
    a[2] = word_at(low + kStepBytes);
    a[3] = word_at(high + kStepBytes);
  }
}

}  // namespace spikeconv::cuda
