// From the checkpoint's packed rows to tiles or columns, and from columns to tiles: once per weight, not per token.
#include "../common/packed.h"
#include "kernels.h"
#include "launch.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 256;

// Eight stored weights → their place in a tile: one word of nibbles, or one of even and one of odd inputs.
template <class F>
SPIKECONV_DEVICE void write_tile(uint8_t* to, int64_t tile, int64_t words, int64_t word, int64_t output, bool nibble,
                                 F stored) {
  uint32_t even = 0, odd = 0;
  for (int j = 0; j < kStepInputs; ++j) {
    even |= stored(2 * j) << 8 * j;
    odd |= stored(2 * j + 1) << 8 * j;
  }
  uint32_t* row = reinterpret_cast<uint32_t*>(to + (tile * words + word) * kStepBytes * (nibble ? 1 : 2)) + output;
  if (nibble) {
    row[0] = even | odd << 4;
  } else {
    row[0] = even;
    row[kTileOutputs] = odd;
  }
}

// One thread per output and word; outputs and inputs behind the last are zeros.
template <class F>
SPIKECONV_DEVICE void write_tiles(int64_t out_features, int64_t in_features, bool nibble, uint8_t* to, F stored) {
  const int64_t words = ceil_div(in_features, kWordInputs), tiles = ceil_div(out_features, kTileOutputs);
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= tiles * words * kTileOutputs) return;
  const int64_t output = i % kTileOutputs, word = i / kTileOutputs % words, tile = i / kTileOutputs / words;
  const int64_t o = tile * kTileOutputs + output;
  write_tile(to, tile, words, word, output, nibble, [&](int lane) {
    return o < out_features && word * kWordInputs + lane < in_features ? uint32_t(stored(o, word, lane)) : 0u;
  });
}

__global__ void packed_to_tiles(const uint8_t* packed, int64_t out_features, int64_t in_features, int bits,
                                uint8_t* to) {
  const int64_t words = ceil_div(in_features, kWordInputs);
  write_tiles(out_features, in_features, is_nibble(bits), to, [&](int64_t o, int64_t word, int lane) {
    return stored_weight(packed + (o * words + word) * bits, bits, lane);
  });
}

__global__ void columns_to_tiles_kernel(SPIKECONV_PARAMETER Weight w, uint8_t* to) {
  write_tiles(w.out_features, w.in_features, is_nibble(w.bits), to, [&](int64_t o, int64_t word, int lane) {
    const uint8_t* column = w.data + (word * kWordInputs + lane) * w.stride;
    return is_nibble(w.bits) ? column_nibble(column, o) : uint32_t(column[o]);
  });
}

// One thread per byte of a column.
__global__ void packed_to_columns(const uint8_t* packed, int64_t out_features, int64_t in_features, int bits,
                                uint8_t* to) {
  const int64_t words = ceil_div(in_features, kWordInputs);
  const int64_t width = is_nibble(bits) ? ceil_div(out_features, 2) : out_features;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= in_features * width) return;
  const int64_t input = i / width, byte = i % width;
  const auto stored = [&](int64_t o) {
    if (o >= out_features) return 0u;
    return stored_weight(packed + (o * words + input / kWordInputs) * bits, bits, int(input % kWordInputs));
  };
  to[i] = uint8_t(is_nibble(bits) ? stored(2 * byte) | stored(2 * byte + 1) << 4 : stored(byte));
}

int64_t tile_threads(int64_t out_features, int64_t in_features) {
  return ceil_div(out_features, kTileOutputs) * kTileOutputs * ceil_div(in_features, kWordInputs);
}

}  // namespace

void arrange(const uint8_t* packed, int64_t out_features, int64_t in_features, int bits, bool columns, uint8_t* to,
             void* stream) {
  const int64_t width = is_nibble(bits) ? ceil_div(out_features, 2) : out_features;
  const int64_t items = columns ? in_features * width : tile_threads(out_features, in_features);
  launch(columns ? packed_to_columns : packed_to_tiles, ceil_div(items, kThreads), kThreads, 0, stream, packed,
         out_features, in_features, bits, to);
}

void columns_to_tiles(const Weight& w, uint8_t* to, void* stream) {
  const int64_t items = tile_threads(w.out_features, w.in_features);
  launch(columns_to_tiles_kernel, ceil_div(items, kThreads), kThreads, 0, stream, w, to);
}

}  // namespace spikeconv::cuda
