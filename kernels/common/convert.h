// bfloat16, as its bits.
#pragma once

#include <string.h>

#include "host_device.h"

namespace spikeconv {

SPIKECONV_HD float bfloat_to_float(uint16_t bfloat) {
  const uint32_t bits = uint32_t(bfloat) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Nearest, ties to even; NaN stays NaN.
SPIKECONV_HD uint16_t float_to_bfloat(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace spikeconv
