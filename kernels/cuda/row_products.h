// Products of floats with the counts of rows: a key's with all queries, and a word of a value's with all weights.
#pragma once

#include "device.h"
#include "kernels.h"

namespace spikeconv::cuda {

// How counts are multiplied: eight at once; one by one, where a word of eight lies in two groups; or spike by spike.
enum class Path { words, inputs, spikes };

struct alignas(16) Eight {
  float x[kWordInputs];
};

// k - z of a word of inputs; the row lies at a multiple of 4 bytes. In the mantissa of 2^23 a count is a float without
// a conversion, which GPUs are slow at.
SPIKECONV_DEVICE void decode_word(const uint8_t* row, const RowShape& shape, int word, int zero,
                                  float (&k)[kWordInputs]) {
  const uint32_t mask = (1u << shape.bits) - 1, flip = 0x4B000000u | 1u << (shape.bits - 1);
  const float offset = 8388608.0f + float(zero - least_count(shape));
  const auto decode = [&](uint32_t fields) {
    const uint32_t bits = (fields & mask) ^ flip;
    float stored;
    memcpy(&stored, &bits, 4);
    return stored - offset;
  };
  const uint8_t* bytes = row + word * shape.bits;
  if (shape.bits == 4) {
    const uint32_t packed = *reinterpret_cast<const uint32_t*>(bytes);
#pragma unroll
    for (int i = 0; i < kWordInputs; ++i) k[i] = decode(packed >> 4 * i);
  } else {
    uint64_t packed = 0;
    for (int b = 0; b < shape.bits; ++b) packed |= uint64_t(bytes[b]) << 8 * b;
#pragma unroll
    for (int i = 0; i < kWordInputs; ++i) k[i] = decode(uint32_t(packed >> shape.bits * i));
  }
}

// x · k: a product, or an addition or subtraction for every spike.
template <Path path>
SPIKECONV_DEVICE float times_count(float x, int count) {
  if constexpr (path != Path::spikes) return x * float(count);
  float sum = 0.0f;
  for (; count > 0; --count) sum += x;
  for (; count < 0; ++count) sum -= x;
  return sum;
}

// ---- keys -------------------------------------------------------------------------------------------------------

// q · (k - z) of all queries, [kQueries][width], and one group of a key, word by word.
template <int kQueries>
SPIKECONV_DEVICE void score_words(const uint8_t* row, const RowShape& shape, int group, const float* queries, int width,
                                  float (&score)[kQueries]) {
  const int words = int(ceil_div(shape.group, kWordInputs)), zero = zero_at(row, shape, group);
  for (int word = group * words; word < (group + 1) * words; ++word) {
    float k[kWordInputs];
    decode_word(row, shape, word, zero, k);
#pragma unroll
    for (int n = 0; n < kQueries; ++n) {
      const Eight q = *reinterpret_cast<const Eight*>(queries + n * width + word * kWordInputs);
#pragma unroll
      for (int i = 0; i < kWordInputs; ++i) score[n] = multiply_add(q.x[i], k[i], score[n]);
    }
  }
}

// q · k - z Σ q of the same, input by input.
template <int kQueries, Path path>
SPIKECONV_DEVICE void score_inputs(const uint8_t* row, const RowShape& shape, int group, const float* queries,
                                   int width, float (&score)[kQueries]) {
  float sum[kQueries] = {};
  for (int i = group * shape.group; i < (group + 1) * shape.group; ++i) {
    const int count = count_at(row, shape, i);
#pragma unroll
    for (int n = 0; n < kQueries; ++n) {
      const float q = queries[n * width + i];
      score[n] += times_count<path>(q, count);
      sum[n] += q;
    }
  }
  const float zero = float(zero_at(row, shape, group));
#pragma unroll
  for (int n = 0; n < kQueries; ++n) score[n] -= zero * sum[n];
}

template <int kQueries, Path path>
SPIKECONV_DEVICE void score_key(const uint8_t* row, const RowShape& shape, const float* queries, int width,
                                float (&score)[kQueries]) {
  for (int group = 0; group < row_groups(shape); ++group) {
    float part[kQueries] = {};
    if constexpr (path == Path::words)
      score_words(row, shape, group, queries, width, part);
    else
      score_inputs<kQueries, path>(row, shape, group, queries, width, part);
    const float scale = scale_at(row, shape, group);
#pragma unroll
    for (int n = 0; n < kQueries; ++n) score[n] += scale * part[n];
  }
}

// ---- values -----------------------------------------------------------------------------------------------------

// acc += p s (v - z) for a word of inputs of one value; weights of two queries lie `pitch` floats apart.
template <int kQueries>
SPIKECONV_DEVICE void add_word(const uint8_t* row, const RowShape& shape, int word, const float* weights, int pitch,
                               float (&acc)[kQueries][kWordInputs]) {
  const int group = shape.group == shape.head_dim ? 0 : word * kWordInputs / shape.group;
  const float scale = scale_at(row, shape, group);
  float v[kWordInputs];
  decode_word(row, shape, word, zero_at(row, shape, group), v);
#pragma unroll
  for (int n = 0; n < kQueries; ++n) {
    const float weight = weights[n * pitch] * scale;
#pragma unroll
    for (int i = 0; i < kWordInputs; ++i) acc[n][i] = multiply_add(weight, v[i], acc[n][i]);
  }
}

// The same input by input.
template <int kQueries, Path path>
SPIKECONV_DEVICE void add_inputs(const uint8_t* row, const RowShape& shape, int word, const float* weights, int pitch,
                                 float (&acc)[kQueries][kWordInputs]) {
#pragma unroll
  for (int i = 0; i < kWordInputs; ++i) {
    const int input = word * kWordInputs + i;
    if (input >= shape.head_dim) continue;
    const int count = count_at(row, shape, input), group = input / shape.group;
    const float scale = scale_at(row, shape, group), zero = float(zero_at(row, shape, group));
#pragma unroll
    for (int n = 0; n < kQueries; ++n) {
      const float weight = weights[n * pitch] * scale;
      acc[n][i] += times_count<path>(weight, count) - weight * zero;
    }
  }
}

}  // namespace spikeconv::cuda
