// Elements of tensors of any float type.
#pragma once

#include "device.h"
#include "kernels.h"

namespace spikeconv::cuda {

SPIKECONV_DEVICE float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

SPIKECONV_DEVICE float load_float(const void* x, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::bfloat16: return bits_to_float(uint32_t(static_cast<const uint16_t*>(x)[i]) << 16);
    case Dtype::float16: return half_to_float(static_cast<const uint16_t*>(x)[i]);
    default: return static_cast<const float*>(x)[i];
  }
}

// Nearest, ties to even; NaN stays NaN.
SPIKECONV_DEVICE uint16_t float_to_bfloat(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

SPIKECONV_DEVICE void store_float(void* y, Dtype dtype, int64_t i, float x) {
  switch (dtype) {
    case Dtype::bfloat16: static_cast<uint16_t*>(y)[i] = float_to_bfloat(x); break;
    case Dtype::float16: static_cast<uint16_t*>(y)[i] = float_to_half(x); break;
    default: static_cast<float*>(y)[i] = x;
  }
}

}  // namespace spikeconv::cuda
