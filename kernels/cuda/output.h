// What becomes of an accumulator; the last step of every product.
#pragma once

#include "../common/accumulate.h"
#include "convert.h"

namespace spikeconv::cuda {

// `acc` is Σ_i W_i k_i of output o and a token, the offset of the stored weights already taken off.
SPIKECONV_DEVICE void write_output(const Member& member, int64_t token, int64_t o, int32_t acc) {
  const Output& out = member.output;
  if (out.zero) acc = without_zero(acc, out.zero[token], out.weight_sum[o]);
  const int64_t at = token * member.weight.out_features + o;
  if (!out.scale) {
    int32_t* y = static_cast<int32_t*>(out.data) + at;
    *y = out.keep ? add_wrapped(multiply_wrapped(out.keep, *y), acc) : acc;
    return;
  }
  float y = output_of(acc, out.scale[token], out.weight_scale[o]);
  if (out.bias) y += load_float(out.bias, out.bias_dtype, o);
  store_float(out.data, out.dtype, at, y);
}

// The member that a block works for.
SPIKECONV_DEVICE int member_of(const Members& members, int64_t block) {
  int m = 0;
  while (m + 1 < members.count && block >= members.first[m + 1]) ++m;
  return m;
}

}  // namespace spikeconv::cuda
