// Dense product for many tokens: int8 tensor cores on weights unpacked in registers, shared memory filled by
// asynchronous copies three steps deep.
//
//   acc[token][o] = Σ_i w[o][i] k[token][i] - offset · Σ_i k[token][i]
//
// A block has 4 × 2 warps: 4 × kTiles tiles of 16 outputs by 2 × kGroups groups of 8 tokens. Sizes that do not fill it
// are completed by zeros while copying and cut off while writing.
#include "fragments.h"
#include "launch.h"
#include "output.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 256, kWarpsOut = 4, kWarpsToken = 2;
constexpr int kStages = 3;
constexpr int kStageWords = kPanelInputs / kWordInputs;  // a stage is 64 inputs: two mma
constexpr int kCopy = 16;                                // bytes of an asynchronous copy

template <bool nibble, int kTiles, int kGroups>
struct Shape {
  static constexpr int kBlockTiles = kWarpsOut * kTiles, kBlockTokens = kWarpsToken * kGroups * 8;
  static constexpr int kRowBytes = nibble ? kStepBytes : 2 * kStepBytes;  // a word of a tile
  // 32 more bytes a row let the rows that the lanes of a warp read lie in different banks.
  static constexpr int kRowPitch = kRowBytes + 32, kTokenPitch = kPanelInputs + 32;
  static constexpr int kWeightBytes = kBlockTiles * kStageWords * kRowPitch;
  static constexpr int kStageBytes = kWeightBytes + kBlockTokens * kTokenPitch;
  // A warp's accumulators on their way out, [tokens][outputs], some groups of tokens at a time.
  static constexpr int kOutputs = kTiles * kTileOutputs, kOutPitch = kOutputs + 4;
  static constexpr int kOutGroups = kGroups < 4 ? kGroups : 4, kOutTokens = kOutGroups * 8;
  static_assert(kThreads / 32 * kOutTokens * kOutPitch * 4 <= kStages * kStageBytes);
  static_assert(kGroups % kOutGroups == 0 && 32 % kOutputs == 0);
};

template <class S>
SPIKECONV_DEVICE void copy_weights(uint8_t* stage, const Weight& w, int tile, int words, int word) {
  constexpr int kChunks = S::kRowBytes / kCopy;
  const int tiles = int(ceil_div(w.out_features, kTileOutputs));
  for (int c = int(threadIdx.x); c < S::kBlockTiles * kStageWords * kChunks; c += kThreads) {
    const int chunk = c % kChunks, row = c / kChunks, t = row / kStageWords, r = row % kStageWords;
    const bool valid = tile + t < tiles && word + r < words;
    const int64_t from = valid ? (int64_t(tile + t) * words + word + r) * S::kRowBytes + chunk * kCopy : 0;
    copy_async(stage + row * S::kRowPitch + chunk * kCopy, w.data + from, valid);
  }
}

template <class S>
SPIKECONV_DEVICE void copy_counts(uint8_t* stage, const Panel& panel, int plane, int token, int input) {
  constexpr int kChunks = kPanelInputs / kCopy;
  for (int c = int(threadIdx.x); c < S::kBlockTokens * kChunks; c += kThreads) {
    const int chunk = c % kChunks, t = c / kChunks;
    const bool valid = token + t < panel.tokens;
    const int64_t from = valid ? (plane * panel.tokens + token + t) * panel.pitch + input + chunk * kCopy : 0;
    copy_async(stage + t * S::kTokenPitch + chunk * kCopy, panel.data + from, valid);
  }
}

template <bool nibble, int kTiles, int kGroups>
__global__ void __launch_bounds__(kThreads, 2)
dense_gemm_kernel(SPIKECONV_PARAMETER Members members, SPIKECONV_PARAMETER Panel panel) {
  using S = Shape<nibble, kTiles, kGroups>;
  uint8_t* stages = dynamic_shared<uint8_t>();
  const int m = member_of(members, blockIdx.x);
  const Member& member = members.member[m];
  const Weight& w = member.weight;
  // Blocks that differ in tokens only are neighbours: they find their weights in the L2 cache.
  // (32-bit divisions: a grid has fewer than 2^31 blocks.)
  const unsigned block = blockIdx.x - unsigned(members.first[m]);
  const unsigned token_blocks = unsigned(ceil_div(panel.tokens, S::kBlockTokens));
  const int first_tile = int(block / token_blocks) * S::kBlockTiles;
  const int first_token = int(block % token_blocks) * S::kBlockTokens;
  const int words = int(ceil_div(w.in_features, kWordInputs));
  const int steps = int(panel.pitch / kPanelInputs), all_steps = steps * panel.planes;

  const auto fill = [&](int step) {
    if (step < all_steps) {
      uint8_t* stage = stages + step % kStages * S::kStageBytes;
      const int at = step % steps;
      copy_weights<S>(stage, w, first_tile, words, at * kStageWords);
      copy_counts<S>(stage + S::kWeightBytes, panel, step / steps, first_token, at * kPanelInputs);
    }
    copy_commit();  // also when empty, so that the number of groups tells which stage has arrived
  };

  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int warp_tile = warp % kWarpsOut * kTiles, warp_token = warp / kWarpsOut * kGroups * 8;
  int32_t acc[kTiles][kGroups][4] = {};
  for (int step = 0; step < kStages - 1; ++step) fill(step);
  for (int step = 0; step < all_steps; ++step) {
    copy_wait<kStages - 2>();
    __syncthreads();  // this stage is there, and all threads are through with the one that is filled next
    fill(step + kStages - 1);
    if (step > 0 && step % steps == 0) {  // the second plane: k = 128 · high + low
#pragma unroll
      for (int i = 0; i < kTiles * kGroups * 4; ++i) acc[i / (kGroups * 4)][i / 4 % kGroups][i % 4] *= kPlane;
    }
    const uint8_t* weights = stages + step % kStages * S::kStageBytes;
    const uint8_t* counts = weights + S::kWeightBytes + (warp_token + fragment_group(lane)) * S::kTokenPitch;
#pragma unroll
    for (int word = 0; word < kStageWords; word += kStepWords) {
      const int own = word + fragment_word(lane);
      uint32_t a[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
        weight_fragment<nibble>(weights + ((warp_tile + i) * kStageWords + own) * S::kRowPitch, lane, a[i]);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        const uint2 b = *reinterpret_cast<const uint2*>(counts + n * 8 * S::kTokenPitch + own * kWordInputs);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) mma_16x8x32(acc[i][n], a[i], b);
      }
    }
  }

  // Through shared memory, so that a warp writes whole stretches of a token's outputs.
  int32_t* own = dynamic_shared<int32_t>() + warp * S::kOutTokens * S::kOutPitch;
  const int column = lane % S::kOutputs;
  const int64_t o = int64_t(first_tile + warp_tile) * kTileOutputs + column;
  __syncthreads();  // all products are done
#pragma unroll 1
  for (int round = 0; round < kGroups; round += S::kOutGroups) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n)
      if (n >= round && n < round + S::kOutGroups)
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c)
            own[((n - round) * 8 + fragment_token(lane, c)) * S::kOutPitch + i * kTileOutputs +
                fragment_output(lane, c)] = acc[i][n][c];
    sync_warp();
#pragma unroll 1
    for (int t = lane / S::kOutputs; t < S::kOutTokens; t += 32 / S::kOutputs) {
      const int64_t token = first_token + warp_token + round * 8 + t;
      if (token < panel.tokens && o < w.out_features)
        write_output(member, token, o, without_offset(own[t * S::kOutPitch + column], panel.sums[token], w.bits));
    }
    sync_warp();
  }
}

template <bool nibble, int kTiles, int kGroups>
void run(Members& members, const Panel& panel, void* stream) {
  using S = Shape<nibble, kTiles, kGroups>;
  members.first[0] = 0;
  for (int m = 0; m < members.count; ++m)
    members.first[m + 1] =
        members.first[m] + ceil_div(panel.tokens, S::kBlockTokens) *
                               ceil_div(members.member[m].weight.out_features, S::kBlockTiles * kTileOutputs);
  launch(dense_gemm_kernel<nibble, kTiles, kGroups>, members.first[members.count], kThreads, kStages * S::kStageBytes,
         stream, members, panel);
}

}  // namespace

void dense_gemm(Members members, const Panel& panel, void* stream) {
  const bool nibble = is_nibble(members.member[0].weight.bits);
  if (panel.tokens <= 64)  // small blocks, to have enough of them
    nibble ? run<true, 1, 2>(members, panel, stream) : run<false, 1, 2>(members, panel, stream);
  else
    nibble ? run<true, 2, 8>(members, panel, stream) : run<false, 2, 8>(members, panel, stream);
}

}  // namespace spikeconv::cuda
