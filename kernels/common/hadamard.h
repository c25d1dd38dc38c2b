// The Hadamard transform's arithmetic, in the one order of additions that every back end keeps.
//
// A block of order m = b_1 · … · b_r · 2^k is a row-major array [b_1]…[b_r][2^k]. First the trailing axis goes through
// butterflies of distance 1, 2, …, 2^(k-1); then each base matrix acts on its axis, every output summing its inputs in
// ascending order; last comes one multiplication by 1/√m. Products by ±1 are exact, so fused or not is the same.
#pragma once

#include "host_device.h"

namespace spikeconv {

template <class F>
SPIKECONV_HD void butterfly(F& a, F& b) {
  const F sum = a + b;
  b = a - b;
  a = sum;
}

// One output of a base matrix: Σ_j row[j] · x[j · stride], j ascending.
SPIKECONV_HD float base_sum(const float* row, const float* x, int64_t order, int64_t stride) {
  float sum = row[0] * x[0];
  for (int64_t j = 1; j < order; ++j) sum = sum + row[j] * x[j * stride];
  return sum;
}

}  // namespace spikeconv
