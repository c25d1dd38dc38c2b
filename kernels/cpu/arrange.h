// From the checkpoint's packed rows to tiles or columns.
#pragma once

#include "../common/packed.h"
#include "kernels.h"

namespace spikeconv {

inline int64_t arranged_bytes(int64_t out_features, int64_t in_features, int bits, bool columns) {
  if (columns) return in_features * (is_nibble(bits) ? ceil_div(out_features, 2) : out_features);
  return ceil_div(out_features, kTileOutputs) * ceil_div(in_features, kWordInputs) * kStepBytes *
         (is_nibble(bits) ? 1 : 2);
}

// packed: [out, ceil(in/8), bits] → to, zeroed beforehand. Rows [begin, end); a range of tiles must not be split.
inline void arrange_rows(const uint8_t* packed, int64_t out_features, int64_t in_features, int bits, bool columns,
                    int64_t begin, int64_t end, uint8_t* to) {
  const int64_t words = ceil_div(in_features, kWordInputs);
  const bool nibble = is_nibble(bits);
  const int64_t stride = nibble ? ceil_div(out_features, 2) : out_features;
  for (int64_t o = begin; o < end; ++o)
    for (int64_t w = 0; w < words; ++w) {
      const uint8_t* word = packed + (o * words + w) * bits;
      uint8_t* tile = to + (o / kTileOutputs * words + w) * kStepBytes * (nibble ? 1 : 2) + o % kTileOutputs * 4;
      for (int lane = 0; lane < kWordInputs; ++lane) {
        const int64_t input = w * kWordInputs + lane;
        if (input >= in_features) break;
        const uint8_t value = uint8_t(stored_weight(word, bits, lane));
        if (columns && nibble)
          to[input * stride + o / 2] |= uint8_t(value << o % 2 * 4);
        else if (columns)
          to[input * stride + o] = value;
        else if (nibble)
          tile[lane / 2] |= uint8_t(value << lane % 2 * 4);
        else
          tile[lane % 2 * kStepBytes + lane / 2] = value;
      }
    }
}

}  // namespace spikeconv
