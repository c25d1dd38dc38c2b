// Signed column accumulation, scalar: what every vector and tensor-core path must equal.
#pragma once

#include "layout.h"

namespace spikeconv {

// acc + Σ_j w_j k_j over the four bytes of an offset-binary weight word and of a word of counts.
SPIKECONV_HD int32_t dot4(uint32_t weights, uint32_t counts, int32_t acc) {
  for (int j = 0; j < 4; ++j) acc += int32_t(weights >> 8 * j & 255) * int32_t(int8_t(counts >> 8 * j & 255));
  return acc;
}

// The accumulator that spikes see: the offset of the stored weights taken off.
SPIKECONV_HD int32_t without_offset(int32_t acc, int32_t count_sum, int bits) {
  return acc - weight_offset(bits) * count_sum;
}

// y = (acc - z · Σ_i W) · s · s_w + b, each operation rounded once.
SPIKECONV_HD float output_of(int32_t acc, float scale, float weight_scale) { return float(acc) * scale * weight_scale; }

}  // namespace spikeconv
