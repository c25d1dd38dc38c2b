// Reductions over a block. `shared` has an entry per warp; all threads take part and all get the result.
#pragma once

#include "device.h"

namespace spikeconv::cuda {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;  // leaves a thread 128 registers

// NaN stays NaN.
SPIKECONV_DEVICE float least(float a, float b) { return b < a || b != b ? b : a; }
SPIKECONV_DEVICE float most(float a, float b) { return a < b || b != b ? b : a; }

template <class T, class F>
SPIKECONV_DEVICE T reduce_warp(T x, F combine) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = combine(x, shuffle_xor(x, mask));
  return x;
}

template <class T, class F>
SPIKECONV_DEVICE T reduce_block(T x, F combine, T* shared) {
  x = reduce_warp(x, combine);
  const int warps = int(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = shared[0];
  for (int w = 1; w < warps; ++w) x = combine(x, shared[w]);
  __syncthreads();  // the entries may be used again
  return x;
}

// Sums of squares and magnitudes are taken in the order of cpu/encode.inl: a tree that adds the upper half of the next
// power of two onto the lower, until one is left.

// Thread t's part of Σ x(i), i < n, none below 0: it owns the elements t, t + threads, …; the order within them is the
// same halving, walked leaf by leaf in bit-reversed order with the open partial sums on a stack. n ≤ threads · 2^levels.
template <int kLevels, class F>
SPIKECONV_DEVICE float own_tree_sum(F x, int n, int threads, int t) {
  int levels = 0;
  while ((int64_t(threads) << levels) < n) ++levels;
  float stack[kLevels] = {}, sum = 0.0f;
  for (int leaf = 0; leaf < 1 << levels; ++leaf) {
    const int64_t own = levels ? reversed_bits(uint32_t(leaf)) >> (32 - levels) : 0, i = t + own * threads;
    sum = i < n ? x(i) : 0.0f;  // adding +0 to a sum of such changes nothing
    bool open = false;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      if (open) continue;
      open = !(leaf >> level & 1);
      if (open)
        stack[level] = sum;
      else
        sum = stack[level] + sum;
    }
  }
  return sum;
}

// The halvings from 32 lanes on. Every lane gets the same bits: the order of two summands does not matter.
SPIKECONV_DEVICE float sum_warp(float sum) {
  return reduce_warp(sum, [](float a, float b) { return a + b; });
}

// By a block; `shared` has an entry per thread.
template <class F>
SPIKECONV_DEVICE float tree_sum(F x, int n, float* shared) {
  const int threads = int(blockDim.x), t = int(threadIdx.x);
  float sum = own_tree_sum<16>(x, n, threads, t);
  shared[t] = sum;
  __syncthreads();
  for (int half = threads / 2; half >= kWarp; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
    __syncthreads();
  }
  sum = sum_warp(shared[t % kWarp]);
  __syncthreads();  // the entries may be used again
  return sum;
}

SPIKECONV_DEVICE float square_sum(const float* x, int n, float* shared) {
  return tree_sum([&](int64_t i) { return x[i] * x[i]; }, n, shared);
}

SPIKECONV_DEVICE float magnitude_sum(const float* x, int n, float* shared) {
  return tree_sum([&](int64_t i) { return x[i] < 0.0f ? -x[i] : x[i]; }, n, shared);
}

}  // namespace spikeconv::cuda
