// Dense product for up to 8 tokens: weights are streamed once, straight from their tiles, and multiplied by dp4a.
//
// A block has one tile of 16 outputs. Its 8 warps share out the inputs; in a warp, lane 4 r + q reads 16 bytes: outputs
// 4 q … 4 q + 3 of word r of eight. Nothing is used twice in a block, so only sums go through shared memory.
#include "counts_word.h"
#include "launch.h"
#include "output.h"
#include "reduce.h"

namespace spikeconv::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kLaneOutputs = 4, kQuads = kTileOutputs / kLaneOutputs, kWarpWords = kWarp / kQuads;

// Two words of weight bytes per output: its even and its odd inputs.
struct WeightWords {
  uint32_t even[kLaneOutputs], odd[kLaneOutputs];
};

template <bool nibble>
SPIKECONV_DEVICE WeightWords load_weights(const uint8_t* row, int quad) {
  const uint4 first = load_constant(reinterpret_cast<const uint4*>(row) + quad);
  const uint32_t low[4] = {first.x, first.y, first.z, first.w};
  WeightWords w;
  if constexpr (nibble) {
    for (int j = 0; j < kLaneOutputs; ++j) w.even[j] = even_inputs(low[j]), w.odd[j] = odd_inputs(low[j]);
  } else {
    const uint4 second = load_constant(reinterpret_cast<const uint4*>(row + kStepBytes) + quad);
    const uint32_t high[4] = {second.x, second.y, second.z, second.w};
    for (int j = 0; j < kLaneOutputs; ++j) w.even[j] = low[j], w.odd[j] = high[j];
  }
  return w;
}

// The offset comes off word by word, so that no sum of counts must be carried along.
SPIKECONV_DEVICE void add_word(const WeightWords& w, CountWord k, int offset, int factor,
                               int32_t (&acc)[kLaneOutputs]) {
  const int32_t sum = dp4a(0x01010101u, k.even, dp4a(0x01010101u, k.odd, 0));
#pragma unroll
  for (int j = 0; j < kLaneOutputs; ++j)
    acc[j] += factor * (dp4a(w.even[j], k.even, dp4a(w.odd[j], k.odd, 0)) - offset * sum);
}

template <int kTokens, bool nibble, bool aligned>
__global__ void __launch_bounds__(kThreads, 2)
dense_gemv_kernel(SPIKECONV_PARAMETER Members members, SPIKECONV_PARAMETER Counts counts) {
  __shared__ int32_t sums[kWarps][kTokens][kTileOutputs];
  const int m = member_of(members, blockIdx.x);
  const Member& member = members.member[m];
  const Weight& w = member.weight;
  const int64_t tile = blockIdx.x - members.first[m];
  const int words = int(ceil_div(w.in_features, kWordInputs)), offset = weight_offset(w.bits);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, quad = lane % kQuads;
  constexpr int kRowBytes = nibble ? kStepBytes : 2 * kStepBytes;
  const uint8_t* rows = w.data + tile * words * kRowBytes;
  int32_t acc[kTokens][kLaneOutputs] = {};
#pragma unroll(!aligned ? 1 : kTokens == 1 ? 4 : 2)
  for (int word = warp * kWarpWords + lane / kQuads; word < words; word += kWarps * kWarpWords) {
    const WeightWords weights = load_weights<nibble>(rows + int64_t(word) * kRowBytes, quad);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= counts.tokens) continue;
      const int64_t row = int64_t(t) * w.in_features;
      if constexpr (aligned) {
        add_word(weights, aligned_word(static_cast<const int8_t*>(counts.data) + row, word), offset, 1, acc[t]);
      } else if (counts.wide) {
        const int16_t* k = static_cast<const int16_t*>(counts.data) + row;
        add_word(weights, gather_word(k, w.in_features, word, [](int c) { return high_plane(c); }), offset, kPlane, acc[t]);
        add_word(weights, gather_word(k, w.in_features, word, [](int c) { return low_plane(c); }), offset, 1, acc[t]);
      } else {
        const int8_t* k = static_cast<const int8_t*>(counts.data) + row;
        add_word(weights, gather_word(k, w.in_features, word, [](int c) { return c; }), offset, 1, acc[t]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t)
#pragma unroll
    for (int j = 0; j < kLaneOutputs; ++j) {
      int32_t sum = acc[t][j];
      for (int mask = kWarp / 2; mask >= kQuads; mask /= 2) sum += shuffle_xor(sum, mask);
      if (lane < kQuads) sums[warp][t][quad * kLaneOutputs + j] = sum;
    }
  __syncthreads();
  const int t = int(threadIdx.x) / kTileOutputs, o = int(threadIdx.x) % kTileOutputs;
  if (t >= kTokens || t >= counts.tokens || tile * kTileOutputs + o >= w.out_features) return;
  int32_t sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += sums[i][t][o];
  write_output(member, t, tile * kTileOutputs + o, sum);
}

template <int kTokens, bool aligned>
void run(const Members& members, const Counts& counts, void* stream) {
  const bool nibble = is_nibble(members.member[0].weight.bits);
  launch(nibble ? dense_gemv_kernel<kTokens, true, aligned> : dense_gemv_kernel<kTokens, false, aligned>,
         members.first[members.count], kThreads, 0, stream, members, counts);
}

}  // namespace

void dense_gemv(Members members, const Counts& counts, void* stream) {
  members.first[0] = 0;
  for (int m = 0; m < members.count; ++m)
    members.first[m + 1] = members.first[m] + ceil_div(members.member[m].weight.out_features, kTileOutputs);
  if (!words_are_aligned(counts))
    run<kVectorTokens, false>(members, counts, stream);
  else if (counts.tokens == 1)
    run<1, true>(members, counts, stream);
  else if (counts.tokens <= 4)
    run<4, true>(members, counts, stream);
  else
    run<kVectorTokens, true>(members, counts, stream);
}

}  // namespace spikeconv::cuda
