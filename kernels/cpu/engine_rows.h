// Keys and values of the engine as rows of counts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "engine.h"

namespace spikeconv {

// In floats: what encoding, rotating and normalizing one head take of their scratch.
inline int64_t row_scratch(const ModelPlan& m) {
  RowsJob job{};
  job.shape.head_dim = int(m.head_dim);
  return rows_scratch(job);
}

// One head's query, rotated in place.
void rotate_head(const Transform& rotation, float* query, float* memory);

// A key or value [head_dim] as a row.
void encode_row(const RowPlan& plan, const float* x, char* row, float* memory);

// attended [tokens][heads][head_dim] of rotated queries, which lie the same way.
void attend_rows(const ModelPlan& model, std::span<const Sequence> sequences, const Cache& cache, int64_t layer,
                 int64_t window, const float* query, float* attended);

}  // namespace spikeconv
