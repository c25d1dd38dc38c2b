// Reductions over a block. `shared` has an entry per warp; all threads take part and all get the result.
#pragma once

#include "device.h"

namespace spikeconv::cuda {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;  // leaves a thread 128 registers

template <class T, class F>
SPIKECONV_DEVICE T reduce_block(T x, F combine, T* shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = combine(x, shuffle_xor(x, mask));
  const int warps = int(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = shared[0];
  for (int w = 1; w < warps; ++w) x = combine(x, shared[w]);
  __syncthreads();  // the entries may be used again
  return x;
}

// Sum of squares in the order of cpu/encode.inl: a tree that adds the upper half of the next power of two onto the
// lower, until one is left. Thread t owns the elements t, t + threads, …; the order within them is the same halving,
// walked leaf by leaf in bit-reversed order with the open partial sums on a stack. `shared` has an entry per thread.
SPIKECONV_DEVICE float square_sum(const float* x, int n, float* shared) {
  const int threads = int(blockDim.x), t = int(threadIdx.x);
  constexpr int kLevels = 16;
  int levels = 0;
  while ((int64_t(threads) << levels) < n) ++levels;
  float stack[kLevels] = {}, sum = 0.0f;
  for (int leaf = 0; leaf < 1 << levels; ++leaf) {
    const int64_t own = levels ? reversed_bits(uint32_t(leaf)) >> (32 - levels) : 0, i = t + own * threads;
    sum = i < n ? x[i] * x[i] : 0.0f;  // adding +0 to a sum of squares changes nothing
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
  shared[t] = sum;
  __syncthreads();
  for (int half = threads / 2; half >= kWarp; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
    __syncthreads();
  }
  sum = shared[t % kWarp];
  for (int half = kWarp / 2; half > 0; half /= 2) sum += shuffle_down(sum, half);
  __syncthreads();
  if (t == 0) shared[0] = sum;
  __syncthreads();
  return shared[0];
}

}  // namespace spikeconv::cuda
