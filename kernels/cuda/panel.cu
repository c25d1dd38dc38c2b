// Counts → panel: int8 planes whose rows are padded with zeros to whole pipeline steps and whose words of eight inputs
// hold the even inputs first, so that dense_gemm.cu copies 16 bytes at a time and needs no case for odd sizes.
#include "counts_word.h"
#include "launch.h"
#include "reduce.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 128;

// Counts beyond the largest are the binding's caller's fault; they stay inside the table.
SPIKECONV_DEVICE int spike_in(const Slot& slot, int count) {
  const int largest = slot.largest;
  return spike_of(count > largest ? largest : count < -largest ? -largest : count, slot.digits);
}

// One block per token.
template <class Count, bool aligned>
__global__ void __launch_bounds__(kThreads)
panel_kernel(SPIKECONV_PARAMETER Counts counts, SPIKECONV_PARAMETER Slot slot, SPIKECONV_PARAMETER Panel panel) {
  __shared__ int32_t shared[kThreads / kWarp];
  const int64_t token = blockIdx.x;
  const int in = counts.in_features;
  const Count* row = static_cast<const Count*>(counts.data) + token * in;
  const int words = int(panel.pitch) / kWordInputs;
  int32_t sum = 0;
  for (int plane = 0; plane < panel.planes; ++plane) {
    uint2* to = reinterpret_cast<uint2*>(panel.data + (plane * panel.tokens + token) * panel.pitch);
    for (int word = int(threadIdx.x); word < words; word += int(blockDim.x)) {
      CountWord w{0, 0};
      if (word * kWordInputs < in) {
        if constexpr (aligned)
          w = aligned_word(row, word);
        else if (slot.digits)
          w = gather_word(row, in, word, [&](int k) { return spike_in(slot, k); });
        else if (panel.planes == 1)
          w = gather_word(row, in, word, [](int k) { return k; });
        else if (plane == 0)
          w = gather_word(row, in, word, [](int k) { return high_plane(k); });
        else
          w = gather_word(row, in, word, [](int k) { return low_plane(k); });
      }
      to[word] = uint2{w.even, w.odd};
      const int32_t part = dp4a(0x01010101u, w.even, dp4a(0x01010101u, w.odd, 0));
      sum += plane == 0 && panel.planes == 2 ? kPlane * part : part;
    }
  }
  sum = reduce_block(sum, [](int32_t a, int32_t b) { return a + b; }, shared);
  if (threadIdx.x == 0) panel.sums[token] = sum;
}

}  // namespace

void make_panel(const Counts& counts, const Slot& slot, const Panel& panel, void* stream) {
  if (counts.wide)
    launch(panel_kernel<int16_t, false>, counts.tokens, kThreads, 0, stream, counts, slot, panel);
  else if (!slot.digits && words_are_aligned(counts))
    launch(panel_kernel<int8_t, true>, counts.tokens, kThreads, 0, stream, counts, slot, panel);
  else
    launch(panel_kernel<int8_t, false>, counts.tokens, kThreads, 0, stream, counts, slot, panel);
}

}  // namespace spikeconv::cuda
