// Where a key or value of one head lies in memory once it is a row of counts (spikeconv/ops/attention.py):
//
//   [ceil(head_dim/8)][bits]  packed counts (packed.h), those from 0 less 2^(bits-1)
//   [groups] float32          scales, not aligned
//   [groups] bytes            zero points, unless counts are signed
//
// Stored counts (offset-binary) are from 0 in both cases, so that an input is worth s · (stored - offset), where the
// offset is the group's zero point or, of signed counts, 2^(bits-1).
#pragma once

#include <string.h>

#include "layout.h"
#include "packed.h"

namespace spikeconv {

struct RowLayout {
  int64_t head_dim, group;  // inputs, and how many of them share a scale
  int bits;
  bool symmetric;  // signed counts, no zero points
};

SPIKECONV_HD int64_t row_groups(const RowLayout& l) { return l.head_dim / l.group; }

// Where the scales begin.
SPIKECONV_HD int64_t row_count_bytes(const RowLayout& l) { return ceil_div(l.head_dim, kWordInputs) * l.bits; }

SPIKECONV_HD int64_t row_bytes(const RowLayout& l) {
  return row_count_bytes(l) + row_groups(l) * (int64_t(sizeof(float)) + !l.symmetric);
}

SPIKECONV_HD float row_scale(const uint8_t* row, const RowLayout& l, int64_t group) {
  float scale;
  memcpy(&scale, row + row_count_bytes(l) + group * int64_t(sizeof scale), sizeof scale);
  return scale;
}

SPIKECONV_HD int row_zero(const uint8_t* row, const RowLayout& l, int64_t group) {
  return l.symmetric ? 0 : row[row_count_bytes(l) + row_groups(l) * int64_t(sizeof(float)) + group];
}

// The spike count of input i: signed, or from 0.
SPIKECONV_HD int row_count(const uint8_t* row, const RowLayout& l, int64_t i) {
  const int stored = int(stored_weight(row + i / kWordInputs * l.bits, l.bits, int(i % kWordInputs)));
  return l.symmetric ? stored - weight_offset(l.bits) : stored;
}

SPIKECONV_HD void write_row_group(uint8_t* row, const RowLayout& l, int64_t group, float scale, int zero) {
  memcpy(row + row_count_bytes(l) + group * int64_t(sizeof scale), &scale, sizeof scale);
  if (!l.symmetric) row[row_count_bytes(l) + row_groups(l) * int64_t(sizeof scale) + group] = uint8_t(zero);
}

}  // namespace spikeconv
