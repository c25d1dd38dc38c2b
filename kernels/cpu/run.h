// Shares the work of the kernels out among torch's threads, on raw pointers.
#pragma once

#include <cstdint>
#include <span>

#include "../common/settings.h"
#include "kernels.h"
#include "memory.h"

namespace spikeconv {

constexpr int64_t kWorkPerThread = 1 << 17;  // multiplications below which another thread does not pay

// Working memory of the calling thread, good until the next call.
Scratch& scratch();

// Counts [tokens, in_features], int8, or int16 if wide.
struct Counts {
  const void* data;
  int64_t tokens, in_features;
  bool wide;
  const void* row(int64_t token) const {
    return static_cast<const int8_t*>(data) + token * in_features * (wide ? 2 : 1);
  }
  int at(int64_t token, int64_t i) const {
    return wide ? static_cast<const int16_t*>(row(token))[i] : static_cast<const int8_t*>(row(token))[i];
  }
};

// One weight of a product, and where its outputs go.
struct Member {
  Weight weight;
  Output output;
  int64_t tiles() const { return ceil_div(weight.out_features, kTileOutputs); }
};

void run_encode(const EncodeJob& job, int64_t tokens);

// Products of all members, whose weights are all in tiles or all in columns; events need columns.
void run_products(const Counts& counts, const ProductSettings& settings, std::span<const Member> members);

// The same, dense; weights may be in either layout.
void run_dense(const Counts& counts, int64_t largest, std::span<const Member> members);

// The same by events.
void run_events(const Counts& counts, std::span<const Member> members);

// The accumulators [tokens, out] slot by slot of a temporal code with digits [slots, largest + 1], each a product of
// its own with ternary spikes.
void run_unfold(const Counts& counts, const ProductSettings& settings, const int8_t* digits, int64_t slots,
                const Weight& weight, int32_t* acc);

void run_encode_rows(const RowsJob& job, int64_t rows);

// Attention of several jobs at once. The same bits for any number of threads, and for whatever else runs beside.
void run_attend(std::span<const AttendJob> jobs);

// The same by additions and subtractions alone, one query or weight for each spike of a key or value.
void run_attend_unfold(const AttendJob& job);

}  // namespace spikeconv
