// Where an integer weight lies in memory.
//
// Weights are stored offset-binary, q + 2^(bits-1), so that a product instruction may take them as unsigned bytes; the
// offset comes off once per token as offset · Σ_i k_i. Up to 4 bits a weight takes a nibble, above a byte.
//
//   tiles    [out/16][in/8][16][4]     dense: one 64-byte row holds 16 outputs × 8 inputs; of the 4 bytes of an output,
//                                      the low nibbles are inputs 0, 2, 4, 6 and the high nibbles inputs 1, 3, 5, 7
//            [out/16][in/8][2][16][4]  the same with bytes: first the even, then the odd inputs
//   columns  [in][out/2] or [in][out]  events: what one input touches is contiguous; low nibble first
//
// A tile of nibbles is the checkpoint's packed row of 4 bytes per 8 inputs, 16 rows interleaved (and q turned into
// offset-binary by one xor).
#pragma once

#include "host_device.h"

namespace spikeconv {

constexpr int kTileOutputs = 16;  // outputs of a tile
constexpr int kWordInputs = 8;    // inputs of a tile row
constexpr int kStepInputs = 4;    // inputs of one dot-product step; a tile row is an even and an odd step
constexpr int kStepBytes = kTileOutputs * kStepInputs;

SPIKECONV_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Value of the stored weight 0.
SPIKECONV_HD int weight_offset(int bits) { return 1 << (bits - 1); }

// Whether a weight of that width takes a nibble.
SPIKECONV_HD bool is_nibble(int bits) { return bits <= 4; }

// Input that byte `lane` (0..3) of step `step` multiplies.
SPIKECONV_HD int64_t step_input(int64_t step, int lane) { return step / 2 * kWordInputs + 2 * lane + step % 2; }

// The four even inputs' weights of a word of nibbles, one per byte, and the four odd ones'.
SPIKECONV_HD uint32_t even_inputs(uint32_t word) { return word & 0x0F0F0F0Fu; }
SPIKECONV_HD uint32_t odd_inputs(uint32_t word) { return word >> 4 & 0x0F0F0F0Fu; }

// Stored weight of output `o` in a column of nibbles.
SPIKECONV_HD uint32_t column_nibble(const uint8_t* column, int64_t o) { return column[o / 2] >> (o % 2 * 4) & 15u; }

}  // namespace spikeconv
