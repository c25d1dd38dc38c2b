// Elements of tensors of any float type.
#pragma once

#include "../common/convert.h"
#include "device.h"
#include "kernels.h"

namespace spikeconv::cuda {

SPIKECONV_DEVICE float load_float(const void* x, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::bfloat16: return bfloat_to_float(static_cast<const uint16_t*>(x)[i]);
    case Dtype::float16: return half_to_float(static_cast<const uint16_t*>(x)[i]);
    default: return static_cast<const float*>(x)[i];
  }
}

SPIKECONV_DEVICE void store_float(void* y, Dtype dtype, int64_t i, float x) {
  switch (dtype) {
    case Dtype::bfloat16: static_cast<uint16_t*>(y)[i] = float_to_bfloat(x); break;
    case Dtype::float16: static_cast<uint16_t*>(y)[i] = float_to_half(x); break;
    default: static_cast<float*>(y)[i] = x;
  }
}

}  // namespace spikeconv::cuda
