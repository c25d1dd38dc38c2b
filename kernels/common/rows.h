// How one key or value of one head lies in bytes (spikeconv/ops/attention.py): its counts, packed as weights are, then
// a float32 scale for every group of inputs, then, for counts from 0, every group's zero point. Nothing is aligned.
#pragma once

#include <string.h>

#include "counts.h"
#include "packed.h"

namespace spikeconv {

constexpr int kMostRatios = 16;  // clip ratios among which a row's groups choose

struct RowShape {
  int head_dim, bits;
  int group;       // inputs that share a scale; divides head_dim
  bool symmetric;  // signed counts; otherwise from 0, with a zero point
};

SPIKECONV_HD int row_words(const RowShape& r) { return int(ceil_div(r.head_dim, kWordInputs)); }
SPIKECONV_HD int row_groups(const RowShape& r) { return r.head_dim / r.group; }
SPIKECONV_HD int scale_offset(const RowShape& r, int group) { return row_words(r) * r.bits + group * 4; }
SPIKECONV_HD int zero_offset(const RowShape& r, int group) { return scale_offset(r, row_groups(r)) + group; }
SPIKECONV_HD int row_bytes(const RowShape& r) { return zero_offset(r, r.symmetric ? 0 : row_groups(r)); }

// Least count: stored (offset-binary) values start from 0.
SPIKECONV_HD int least_count(const RowShape& r) { return r.symmetric ? -weight_offset(r.bits) : 0; }

// Signed counts reach further below zero than above it, and a scale may be negative: the end that is further takes the
// largest input.
SPIKECONV_HD TokenScale row_scale(float low, float high, CountRange range) {
  if (!range.symmetric) return token_scale(low, high, range);
  range.max = -range.min;
  TokenScale result = token_scale(low, high, range);
  if (high > -low) result.scale = -result.scale;
  return result;
}

SPIKECONV_HD int count_at(const uint8_t* row, const RowShape& r, int input) {
  const uint8_t* word = row + input / kWordInputs * r.bits;
  return int(stored_weight(word, r.bits, input % kWordInputs)) + least_count(r);
}

SPIKECONV_HD float scale_at(const uint8_t* row, const RowShape& r, int group) {
  float scale;
  memcpy(&scale, row + scale_offset(r, group), 4);
  return scale;
}

SPIKECONV_HD int zero_at(const uint8_t* row, const RowShape& r, int group) {
  return r.symmetric ? 0 : row[zero_offset(r, group)];
}

// What `stored_weight` reads back: the packed field of a count.
SPIKECONV_HD uint64_t packed_field(int count, const RowShape& r) {
  const uint32_t stored = uint32_t(count - least_count(r));
  return stored ^ 1u << (r.bits - 1);
}

SPIKECONV_HD void write_scale(uint8_t* row, const RowShape& r, int group, float scale, int zero) {
  memcpy(row + scale_offset(r, group), &scale, 4);
  if (!r.symmetric) row[zero_offset(r, group)] = uint8_t(zero);
}

}  // namespace spikeconv
