// Signed column accumulation, scalar: what every vector and tensor-core path must equal.
#pragma once

#include "layout.h"

namespace spikeconv {

// Sums of stored weights may pass 2^31 where those of the weights do not (common/settings.h bounds the latter). They wrap
// around, and come back when the offset is taken off.
SPIKECONV_HD int32_t add_wrapped(int32_t a, int32_t b) { return int32_t(uint32_t(a) + uint32_t(b)); }
SPIKECONV_HD int32_t multiply_wrapped(int32_t a, int32_t b) { return int32_t(uint32_t(a) * uint32_t(b)); }

// acc + Σ_j w_j k_j over the four bytes of an offset-binary weight word and of a word of counts.
SPIKECONV_HD int32_t dot4(uint32_t weights, uint32_t counts, int32_t acc) {
  for (int j = 0; j < 4; ++j)
    acc = add_wrapped(acc, int32_t(weights >> 8 * j & 255) * int32_t(int8_t(counts >> 8 * j & 255)));
  return acc;
}

// The accumulator that spikes see: the offset of the stored weights taken off.
SPIKECONV_HD int32_t without_offset(int32_t acc, int32_t count_sum, int bits) {
  return add_wrapped(acc, multiply_wrapped(-weight_offset(bits), count_sum));
}

// acc - z Σ_i W.
SPIKECONV_HD int32_t without_zero(int32_t acc, int32_t zero, int32_t weight_sum) {
  return int32_t(uint32_t(acc) - uint32_t(zero) * uint32_t(weight_sum));
}

// y = (acc - z · Σ_i W) · s · s_w + b, each operation rounded once.
SPIKECONV_HD float output_of(int32_t acc, float scale, float weight_scale) { return float(acc) * scale * weight_scale; }

}  // namespace spikeconv
