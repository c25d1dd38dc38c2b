// x → RMSNorm · γ → signs → Hadamard → clip → scale → counts: one block per token, the token in shared memory, or in
// global memory where it is too long. Bit for bit the arithmetic of cpu/encode.inl; needs -fmad=false.
#include "convert.h"
#include "hadamard_block.h"
#include "launch.h"

namespace spikeconv::cuda {
namespace {

SPIKECONV_DEVICE TokenScale finish_potential(const EncodeJob& job, float* u, float* shared) {
  const CountRange range = job.range;
  const float threshold = job.threshold ? *job.threshold : 0.0f;
  const float infinity = bfloat_to_float(0x7F80);
  float low = infinity, high = -infinity;
  for (int i = int(threadIdx.x); i < job.size; i += int(blockDim.x)) {
    const float v = clip_potential(u[i] * job.transform.factor, range.clip, threshold);
    u[i] = v;
    low = least(low, v);
    high = most(high, v);
  }
  low = reduce_block(low, [](float a, float b) { return least(a, b); }, shared);
  high = reduce_block(high, [](float a, float b) { return most(a, b); }, shared);
  float unit = 0;
  if (needs_unit(range)) {
    const float sum = range.by_mean ? magnitude_sum(u, job.size, shared) : square_sum(u, job.size, shared);
    unit = range.by_mean ? sum / float(job.size) : square_root(sum / float(job.size));
  }
  return token_scale(low, high, range, unit);
}

// A block's own bins lie in shared memory where they fit.
SPIKECONV_DEVICE bool fits_shared(const Histogram& h) { return h.size <= kMaxThreads; }

SPIKECONV_DEVICE void count_one(const Histogram& h, int count, int* own) {
  const int bin = count - h.lowest;
  if (fits_shared(h))
    atomic_add(own + bin, int32_t(1));
  else
    atomic_add(h.bins + bin, int64_t(1));
}

SPIKECONV_DEVICE void clear_bins(const Histogram& h, int* own) {
  if (!h.bins || !fits_shared(h)) return;
  for (int i = int(threadIdx.x); i < int(h.size); i += int(blockDim.x)) own[i] = 0;
  __syncthreads();
}

SPIKECONV_DEVICE void add_bins(const Histogram& h, const int* own) {
  if (!h.bins || !fits_shared(h)) return;
  __syncthreads();
  for (int i = int(threadIdx.x); i < int(h.size); i += int(blockDim.x))
    if (own[i]) atomic_add(h.bins + i, int64_t(own[i]));
}

// Each thread counts four neighbours, so that it can write them at once where the row is aligned.
template <class Count>
SPIKECONV_DEVICE void write_counts(const EncodeJob& job, const float* u, TokenScale s, Count* counts, int* own) {
  struct alignas(4 * sizeof(Count)) Four {
    Count k[4];
  };
  const int n = job.size;
  const float low = job.range.min, high = job.range.max;
  for (int i = 4 * int(threadIdx.x); i < n; i += 4 * int(blockDim.x)) {
    Four four{};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j >= n) continue;
      float whole = bucket(u[i + j], s.scale, s.zero, low, high);
      if (s.dead > 0.0f) whole = zoned(whole, u[i + j], s.dead, s.near, job.range.one_spike);
      const int k = int(whole);
      four.k[j] = Count(k);
      if (job.histogram.bins) count_one(job.histogram, k, own);
    }
    if (n % 4 == 0)
      *reinterpret_cast<Four*>(counts + i) = four;
    else
      for (int j = 0; j < 4 && i + j < n; ++j) counts[i + j] = four.k[j];
  }
}

template <bool in_shared>
__global__ void __launch_bounds__(kMaxThreads, 1) encode_kernel(SPIKECONV_PARAMETER EncodeJob job) {
  __shared__ float shared[kMaxThreads];
  const int n = job.size;
  float* u = in_shared ? dynamic_shared<float>() : job.workspace + int64_t(blockIdx.x) * n;
  for (int64_t token = blockIdx.x; token < job.tokens; token += gridDim.x) {
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) u[i] = load_float(job.x, job.dtype, token * n + i);
    __syncthreads();
    if (job.norm_weight) {
      const float mean = square_sum(u, n, shared) / float(n);
      const float rsqrt = 1.0f / square_root(mean + job.norm_epsilon);
      for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) u[i] = job.norm_weight[i] * (u[i] * rsqrt);
    }
    if (job.transform.signs) {
      // The same thread as above owns element i: no barrier in between.
      for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) u[i] *= job.transform.signs[i];
      __syncthreads();
      transform_block(job.transform, u, n);
    }
    if (job.rotated) {
      float* rotated = job.rotated + token * n;
      for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) rotated[i] = u[i] * job.transform.factor;
    } else {
      const TokenScale s = finish_potential(job, u, shared);
      if (threadIdx.x == 0) {
        job.scale[token] = s.scale;
        job.zero[token] = whole_zero(s);
      }
      int* own = reinterpret_cast<int*>(shared);
      clear_bins(job.histogram, own);
      if (job.wide)
        write_counts(job, u, s, static_cast<int16_t*>(job.counts) + token * n, own);
      else
        write_counts(job, u, s, static_cast<int8_t*>(job.counts) + token * n, own);
      add_bins(job.histogram, own);
    }
    __syncthreads();  // the next token overwrites this one
  }
}

bool fits_shared(int64_t size) { return size * 4 + kMaxThreads * 4 + 256 <= shared_limit(); }

// Blocks that take tokens in turn; more would only need more memory.
int64_t workspace_blocks(int64_t tokens) {
  const int64_t most_blocks = 2 * multiprocessors();
  return tokens < most_blocks ? tokens : most_blocks;
}

}  // namespace

int64_t encode_workspace(int64_t tokens, int size) { return fits_shared(size) ? 0 : workspace_blocks(tokens) * size; }

void encode(const EncodeJob& job, void* stream) {
  int threads = 128;
  while (threads < kMaxThreads && threads * 4 < job.size) threads *= 2;
  for (int b = 0; b < job.transform.base_count; ++b)
    while (threads < kMaxThreads && threads * kHeld < job.transform.base_orders[b]) threads *= 2;
  if (job.workspace)
    launch(encode_kernel<false>, workspace_blocks(job.tokens), threads, 0, stream, job);
  else
    launch(encode_kernel<true>, job.tokens < kMaxBlocks ? job.tokens : kMaxBlocks, threads, int64_t(job.size) * 4,
           stream, job);
}

}  // namespace spikeconv::cuda
