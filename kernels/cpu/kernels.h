// What each instruction set provides, on raw pointers; the binding deals with tensors, threads and memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "../common/counts.h"
#include "../common/layout.h"
#include "../common/rows.h"
#include "engine_kernels.h"

namespace spikeconv {

enum class Dtype : int { float32, bfloat16, float16, int32, int8 };

constexpr int kMaxBases = 4;

// Randomized Hadamard transform of `size` inputs in blocks of `order` (see common/hadamard.h).
struct Transform {
  const float* signs;         // [size], ±1; null: no rotation
  int64_t size, order, power; // power: the 2^k of the block
  const float* bases[kMaxBases];  // ±1 matrices [b][b]
  int64_t base_orders[kMaxBases];
  int base_count;
  float factor;               // 1/√order
};

// RMSNorm in front of the rotation; null weight: none.
struct Norm {
  const void* weight;
  Dtype dtype;
  float epsilon;
};

struct EncodeJob {
  const void* x;  // [tokens, size]
  Dtype dtype;
  Transform transform;
  Norm norm;
  CountRange range;
  const float* threshold;  // τ of the range's clip
  float* rotated;     // [tokens, size]; if set, only the rotation is wanted
  void* counts;       // [tokens, size] int8 or int16
  bool wide;          // int16
  float* scale;       // [tokens]
  int32_t* zero;      // [tokens]
  Histogram histogram;
};

// One integer weight in tiles or columns.
struct Weight {
  const uint8_t* data;
  bool columns;
  int64_t stride;  // bytes from one input's column to the next
  int bits;
  int64_t in_features, out_features;
};

// Counts of tokens in the order in which the product reads them, and their sums.
struct PackedCounts {
  const int8_t* data;   // [row tiles][planes][words][even, odd][tokens of the tile][4], or as `pack` has it
  const int32_t* sums;  // [tokens] Σ_i k_i
  int64_t words;
  int planes;           // 2 for counts beyond int8: k = 128 · plane 0 + plane 1
  int largest;          // bound on |count| of a plane
  int64_t bytes() const { return planes * words * kWordInputs; }  // of a token
  const int8_t* tile(int64_t token) const { return data + token * bytes(); }  // that begins with a token
};

// The non-zero counts of a token.
struct Fired {
  const int32_t* index;  // [number] of their inputs
  const int16_t* count;
  int64_t number;
  int32_t sum;
  int largest;           // |count|
  bool narrow;           // all fit a byte
};

// What becomes of the accumulators of outputs [begin, end): y = (acc - z Σ_i W) · s · s_w + b, or acc itself.
struct Output {
  void* data;  // [tokens, out_features]
  Dtype dtype;
  int64_t stride;
  const int32_t* zero;        // [tokens] or null
  const int32_t* weight_sum;  // [out]
  const float* scale;         // [tokens]; null: int32 accumulators go out
  const float* weight_scale;  // [out]
  const void* bias;           // [out] or null, in `bias_dtype`
  Dtype bias_dtype;
};

struct RtnJob {
  const float* weight;  // [rows, columns]
  int64_t columns;
  int bits;
  bool search_clip;
  uint8_t* packed;      // [rows, ceil(columns/8), bits], the checkpoint's layout
  float* scale;         // [rows]
  int32_t* sum;         // [rows] Σ_i q_i
  double* error;        // [rows] Σ (ŵ - w)²
};

// Keys or values to be written as rows of counts.
struct RowsJob {
  const void* x;  // [rows, head_dim]
  Dtype dtype;
  Transform transform;
  RowShape shape;
  CountRange range;      // of the counts; its clip ratio is not used
  const float* ratios;   // [ratio_count] shares of a group's range to try
  int64_t ratio_count;
  uint8_t* rows;         // [rows, row_bytes]
  Histogram histogram;
};

// Rows [batch, key heads, length] of a cache or of a slice of it; strides in bytes.
struct RowCache {
  const uint8_t* data;
  int64_t batch_stride, head_stride, stride;
  Fork fork;
  const uint8_t* head(int64_t batch, int64_t key_head) const {
    return data + batch * batch_stride + key_head * head_stride;
  }
};

// What is added to the scores [batch, heads, tokens, length]: strides in numbers, 0 where it is the same for all. Null
// data: nothing.
struct Mask {
  const void* data;
  Dtype dtype;
  int64_t batch_stride, head_stride, token_stride;
};

// Queries of some tokens, and the keys and values that they use. What uses one key head is counted token by token: the
// heads of token 0, of token 1, …
struct AttendJob {
  const void* query;  // [batch, heads, tokens] of head_dim; strides in numbers
  Dtype dtype;
  float* output;      // the same, with the same strides
  int64_t batch_stride, head_stride, token_stride;
  RowCache keys, values;
  Mask mask;          // not where `causal`
  RowShape shape;
  float scaling;
  int64_t batch, key_heads, repeats, tokens, length;
  bool causal;        // the last keys are the tokens' own, and what follows its own key a token does not see
  int64_t window;     // keys that it then sees, its own included; 0: all before
  int64_t queries() const { return repeats * tokens; }  // that use one key
  // Where a query of a key head begins, and its mask, in numbers.
  int64_t query_at(int64_t batch, int64_t key_head, int64_t query) const {
    return batch * batch_stride + (key_head * repeats + query % repeats) * head_stride + query / repeats * token_stride;
  }
  int64_t mask_at(int64_t batch, int64_t key_head, int64_t query) const {
    const int64_t head = key_head * repeats + query % repeats;
    return batch * mask.batch_stride + head * mask.head_stride + query / repeats * mask.token_stride;
  }
  // First and last key that a query sees. A mask is not looked at.
  int64_t high(int64_t query) const { return causal ? length - tokens + query / repeats : length - 1; }
  int64_t low(int64_t query) const {
    const int64_t first = high(query) - window + 1;
    return causal && window && first > 0 ? first : 0;
  }
};

// Some queries of one key head, and some of its keys.
struct AttendPart {
  int64_t batch, key_head, query_begin, query_end, key_begin, key_end;
  int64_t queries() const { return query_end - query_begin; }
  int64_t keys() const { return key_end - key_begin; }
};

struct Kernels {
  const char* name;
  const Kernels* small;  // whose `dense` is faster for fewer than `small_tokens`; null: none
  int64_t small_tokens;
  int tile_rows;   // tokens of a full row tile
  int depth_words; // words that it takes at a time; behind the last input counts are 0

  // Scratch of `encode_scratch(job)` floats.
  void (*encode)(const EncodeJob&, int64_t token_begin, int64_t token_end, float* scratch);
  // Counts [rows, in] (int8, or int16 if wide) → a row tile of PackedCounts, at most `tile_rows`, for `dense`; and at most
  // kFewRows, for `dense_few`.
  void (*pack)(const void* counts, bool wide, int64_t in_features, int64_t rows, int8_t* data, int32_t* sums);
  void (*pack_few)(const void* counts, bool wide, int64_t in_features, int64_t rows, int8_t* data, int32_t* sums);
  // A panel of kPanelTiles tiles against the tokens [begin, end), whole row tiles; scratch of `dense_scratch(weight)`
  // bytes.
  void (*dense)(const Weight&, const PackedCounts&, const Output&, int64_t panel, int64_t begin, int64_t end,
                void* scratch);
  // Tiles [begin, end) against all of at most kFewRows tokens, packed as one row tile. Not for weights in columns.
  void (*dense_few)(const Weight&, const PackedCounts&, int64_t rows, const Output&, int64_t begin, int64_t end);
  // The non-zero ones of a token's counts [in]; room for 16 more than there are.
  void (*list)(const void* counts, bool wide, int64_t in_features, int32_t* index, int16_t* count, Fired&);
  // Sums of the outputs [first, last) of a weight in columns over the events [begin, end); first is a multiple of
  // kEventOutputs, and acc and sums hold up to the next one behind last.
  void (*events)(const Weight&, const Fired&, int64_t begin, int64_t end, int64_t first, int64_t last, int32_t* acc,
                 int16_t* sums);
  // Accumulators of the outputs [first, first + n) of a token → the output.
  void (*write)(const Output&, int bits, int32_t count_sum, int64_t token, int64_t first, int64_t n,
                const int32_t* acc);
  void (*rtn)(const RtnJob&, int64_t row_begin, int64_t row_end, float* scratch);
  // Scratch of `rows_scratch(job)` floats.
  void (*encode_rows)(const RowsJob&, int64_t row_begin, int64_t row_end, float* scratch);
  // Records [queries][head_dim + 2] of a part: Σ p v with p = e^(score - peak), the peak, Σ p. Scratch of
  // `attend_scratch(…)` floats.
  void (*attend)(const AttendJob&, const AttendPart&, float* records, float* scratch);
  // One query's output [head_dim] from its records, `stride` numbers apart.
  void (*merge)(const float* records, int64_t stride, int64_t count, int64_t head_dim, float* output);
  // The machine's limits, for benchmarks.
  int64_t (*peak)(int64_t rounds);
  void (*read)(const uint8_t*, int64_t bytes);
  const EngineKernels* engine;
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512Vnni;
const Kernels* amx_kernels();  // null: not compiled in, or not to be had from this system
#endif

constexpr int64_t kPanelTiles = 4;  // beside each other; in columns, half a cache line of nibbles
constexpr int64_t kPanelOutputs = kPanelTiles * kTileOutputs;
constexpr int64_t kEventOutputs = 128;  // outputs are shared out in pieces of this size: a cache line of nibbles
constexpr int64_t kFewRows = 4;     // up to here a product is bound by reading weights
constexpr int64_t kStreams = 2;     // that a thread reads then

constexpr int64_t kReadBehind = 2048;  // bytes that a product may read behind the packed counts

constexpr int64_t kUnpackRows = 48;  // from here on it pays to unpack a tile first, where it pays at all

// In bytes: a panel of a weight in columns as tiles, and a panel of nibbles as bytes.
inline int64_t dense_scratch(const Weight& w) {
  const int64_t words = ceil_div(w.in_features, kWordInputs), wide = kPanelOutputs * kWordInputs;
  return words * (w.columns ? is_nibble(w.bits) ? wide / 2 : wide : 0) + ceil_div(words, kWordInputs) * kWordInputs * wide;
}

constexpr int64_t kFewQueries = 8;      // up to here rows are unpacked in registers, above into tiles
constexpr int64_t kMostQueries = 128;   // of a part
constexpr int64_t kTileKeys = 48;       // keys at a time; decoded, they should leave room in the L1 cache
constexpr int64_t kMostFewKeys = 20 * kTileKeys;  // of a part with few queries
constexpr int64_t kRecordExtra = 2;     // numbers of a record beside Σ p v

constexpr int kHistogramCopies = 4;  // beside each other, so that equal neighbours do not wait for one another

// In floats: working memory, then a thread's own histogram of 64-bit bins.
inline int64_t own_histogram(const Histogram& h) { return h.bins ? 2 * kHistogramCopies * h.size + 2 : 0; }
inline int64_t encode_scratch(const EncodeJob& job) { return 3 * job.transform.size + 64 + own_histogram(job.histogram); }
inline int64_t rows_scratch(const RowsJob& job) { return 4 * job.shape.head_dim + 64 + own_histogram(job.histogram); }

// Bound of what `attend` takes of its scratch: queries and sums of all groups, in whole words and a vector more, scores
// and a tile.
inline int64_t attend_scratch(const RowShape& shape, int64_t queries) {
  constexpr int64_t kVector = 32;
  const int64_t held = ceil_div(queries, kVector) * kVector;
  const int64_t group = (ceil_div(shape.group, kWordInputs) + 1) * kWordInputs + kVector;
  const int64_t scores = queries <= kFewQueries ? kMostFewKeys : 2 * kTileKeys;
  return held * (2 * row_groups(shape) * (group + 1) + scores + 4) +
         kTileKeys * (group + 4 * kVector + row_bytes(shape) / 4 + 1) +
         shape.head_dim + 4096;
}
}  // namespace spikeconv
