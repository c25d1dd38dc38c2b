// The Hadamard transform of one token by one block, in place, in the order of additions of common/hadamard.h.
#pragma once

#include "../common/hadamard.h"
#include "reduce.h"

namespace spikeconv::cuda {

// Butterflies of distance 1 to 16: partners are lanes of one warp.
SPIKECONV_DEVICE void butterflies_in_warps(float* x, int n, int power) {
  const int whole = (n + kWarp - 1) / kWarp * kWarp;  // every lane must take part in a shuffle
  for (int i = int(threadIdx.x); i < whole; i += int(blockDim.x)) {
    float v = i < n ? x[i] : 0.0f;
    for (int distance = 1; distance < kWarp && distance < power; distance *= 2) {
      const float other = shuffle_xor(v, distance);
      v = i & distance ? other - v : v + other;
    }
    if (i < n) x[i] = v;
  }
}

// Butterflies of `levels` consecutive distances from `distance` on, with one trip through memory.
template <int levels>
SPIKECONV_DEVICE void butterflies_in_registers(float* x, int n, int distance) {
  constexpr int kRadix = 1 << levels;
  for (int p = int(threadIdx.x); p < n >> levels; p += int(blockDim.x)) {
    const int low = p & (distance - 1);
    float* first = x + ((p - low) << levels) + low;
    float v[kRadix];
#pragma unroll
    for (int e = 0; e < kRadix; ++e) v[e] = first[e * distance];
#pragma unroll
    for (int level = 0; level < levels; ++level)
#pragma unroll
      for (int e = 0; e < kRadix; ++e)
        if (!(e >> level & 1)) butterfly(v[e], v[e | 1 << level]);
#pragma unroll
    for (int e = 0; e < kRadix; ++e) first[e * distance] = v[e];
  }
}

constexpr int kHeld = 4;  // a thread holds kHeld × kHeld outputs of a base matrix

// x = (I ⊗ B ⊗ I) x: each vector of `order` floats, `inner` apart, is multiplied by B. In place: a round of vectors is
// summed into registers, and only when all threads are through is it written. Threads ≥ order / kHeld.
SPIKECONV_DEVICE void base_pass(const float* matrix, int order, int inner, int n, float* x) {
  const int vectors = n / order, row_tiles = (order + kHeld - 1) / kHeld, lanes = int(blockDim.x) / row_tiles;
  const int lane = int(threadIdx.x) % lanes, row = int(threadIdx.x) / lanes * kHeld;
  for (int first = 0; first < vectors; first += kHeld * lanes) {
    float sum[kHeld][kHeld];
    int at[kHeld], rows[kHeld];  // offsets, not pointers: registers are scarce
    for (int v = 0; v < kHeld; ++v) {
      const int vector = first + lane + v * lanes;
      at[v] = row < order && vector < vectors ? vector / inner * (order * inner) + vector % inner : -1;
    }
    for (int r = 0; r < kHeld; ++r) rows[r] = (row + r < order ? row + r : 0) * order;
#pragma unroll
    for (int r = 0; r < kHeld; ++r)
#pragma unroll
      for (int v = 0; v < kHeld; ++v) sum[r][v] = load_constant(matrix + rows[r]) * x[at[v] < 0 ? 0 : at[v]];
    for (int j = 1; j < order; ++j) {
      float in[kHeld];
#pragma unroll
      for (int v = 0; v < kHeld; ++v) in[v] = x[at[v] < 0 ? 0 : at[v] + j * inner];
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        const float sign = load_constant(matrix + rows[r] + j);
#pragma unroll
        for (int v = 0; v < kHeld; ++v) sum[r][v] = add_signed(sign, in[v], sum[r][v]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kHeld; ++r)
#pragma unroll
      for (int v = 0; v < kHeld; ++v)
        if (at[v] >= 0 && row + r < order) x[at[v] + (row + r) * inner] = sum[r][v];
    __syncthreads();
  }
}

// H x of one token, without the factor 1/√m; a barrier must stand before it, one stands behind it.
SPIKECONV_DEVICE void transform_block(const Transform& t, float* x, int n) {
  butterflies_in_warps(x, n, t.power);
  __syncthreads();
  for (int distance = kWarp; distance < t.power;) {
    if (distance * 4 < t.power) {
      butterflies_in_registers<3>(x, n, distance);
      distance *= 8;
    } else if (distance * 2 < t.power) {
      butterflies_in_registers<2>(x, n, distance);
      distance *= 4;
    } else {
      butterflies_in_registers<1>(x, n, distance);
      distance *= 2;
    }
    __syncthreads();
  }
  int inner = t.order;
  for (int b = 0; b < t.base_count; ++b) {
    inner /= t.base_orders[b];
    base_pass(t.bases[b], t.base_orders[b], inner, n, x);
  }
}

}  // namespace spikeconv::cuda
