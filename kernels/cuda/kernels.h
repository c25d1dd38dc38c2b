// What the CUDA kernels provide, on raw device pointers; the binding (ops*.cpp) deals with tensors, memory and streams.
//
// All functions only enqueue work on the stream, without synchronisation or allocation: CUDA graphs can record them.
#pragma once

#include <stdint.h>

#include "../common/counts.h"
#include "../common/layout.h"
#include "../common/rows.h"

namespace spikeconv::cuda {

enum class Dtype : int { float32, bfloat16, float16, int32 };

constexpr int kMaxBases = 6;    // base matrices of a Hadamard block
constexpr int kMaxHeadDim = 512;
constexpr int kMaxMembers = 8;  // weights that one launch multiplies (q|k|v, gate|up)

// Randomized Hadamard transform in blocks (see common/hadamard.h).
struct Transform {
  const float* signs;  // [size], ±1; null: no rotation
  int order, power;    // of a block; power: its 2^k
  int base_count;
  const float* bases[kMaxBases];  // ±1 matrices [b][b]
  int base_orders[kMaxBases];
  float factor;  // 1/√order
};

struct EncodeJob {
  const void* x;  // [tokens][size]
  Dtype dtype;
  int64_t tokens;
  int size;
  Transform transform;
  const float* norm_weight;  // [size]: RMSNorm in front; null: none
  float norm_epsilon;
  CountRange range;
  const float* threshold;  // τ of the range's clip; null: none
  float* rotated;       // [tokens][size]; if set, only the rotation is wanted
  void* counts;         // [tokens][size] int8 or int16
  bool wide;            // int16
  float* scale;         // [tokens]
  int32_t* zero;        // [tokens]
  Histogram histogram;
  float* workspace;     // encode_workspace() floats; null: tokens live in shared memory
};

// Spike counts of all tokens.
struct Counts {
  const void* data;  // [tokens][in_features] int8 or int16
  bool wide;
  int64_t tokens;
  int in_features;
};

// Counts in the order in which the tensor cores take them (see panel.cu).
struct Panel {
  int8_t* data;   // [planes][tokens][pitch]
  int32_t* sums;  // [tokens] Σ_i k_i
  int64_t tokens, pitch;
  int planes;  // 2 for counts beyond int8: k = 128 · plane 0 + plane 1
};

struct Weight {
  const uint8_t* data;
  int64_t stride;  // columns: bytes from one input's column to the next
  int bits;
  int in_features;
  int64_t out_features;
};

// What becomes of an accumulator: y = (acc - z Σ_i W) · s · s_w + b, or acc itself.
struct Output {
  void* data;  // [tokens][out_features]
  Dtype dtype;
  int keep;                   // int32 only: acc is added to so many times what is there; 0: it is not read
  const int32_t* zero;        // [tokens] or null
  const int32_t* weight_sum;  // [out]
  const float* scale;         // [tokens]; null: int32 accumulators go out
  const float* weight_scale;  // [out]
  const void* bias;           // [out] or null, in `bias_dtype`
  Dtype bias_dtype;
};

struct Member {
  Weight weight;
  Output output;
  int32_t* acc;  // events: [tokens][out], zeroed beforehand
};

// Weights that share their counts. Blocks are shared out in order: member m has blocks [first[m], first[m + 1]).
struct Members {
  int count;
  int64_t first[kMaxMembers + 1];
  Member member[kMaxMembers];
};

constexpr int kVectorTokens = 8;   // up to this many tokens weights are streamed once by dp4a
constexpr int kPanelInputs = 64;   // a panel's rows are a multiple of this many inputs
constexpr int kWeightAlignment = 16;  // bytes; of weights in tiles

inline int64_t panel_pitch(int64_t in_features) { return ceil_div(in_features, kPanelInputs) * kPanelInputs; }

struct RowsJob {
  const void* x;  // [count][head_dim]
  Dtype dtype;
  int64_t count;
  RowShape shape;
  Transform transform;
  int ratio_count;
  float ratios[kMostRatios];
  uint8_t* rows;        // [count][row_bytes]
  Histogram histogram;
};

// Keys or values of all positions.
struct Rows {
  const uint8_t* data;
  int64_t batch_stride, head_stride, stride;  // bytes
};

struct AttendJob {
  const void* query;  // [batch][key_heads][queries][head_dim]
  Dtype query_dtype;
  int batch, key_heads;
  int queries;  // that share their keys: of the heads of a key head, `tokens` each
  int tokens, length;
  RowShape shape;
  Rows keys, values;
  const void* mask;  // added to the scores; null: none
  Dtype mask_dtype;
  int64_t mask_strides[4];  // batch, head, token, position; elements
  float scaling;
  bool unfold;
  float* parts;   // attend_workspace() floats
  float* output;  // as the query
};

int64_t encode_workspace(int64_t tokens, int size);  // floats; 0: none
void encode(const EncodeJob& job, void* stream);

void arrange(const uint8_t* packed, int64_t out_features, int64_t in_features, int bits, bool columns, uint8_t* to,
             void* stream);
// Columns → tiles, for a dense product with a weight that is kept in columns.
void columns_to_tiles(const Weight& columns, uint8_t* to, void* stream);

// The spikes that counts send in a slot of a temporal code.
struct Slot {
  const int8_t* digits;  // [largest + 1], by |count|; null: the counts themselves
  int largest;
};
void make_panel(const Counts& counts, const Slot& slot, const Panel& panel, void* stream);
void dense_gemm(Members members, const Panel& panel, void* stream);
void dense_gemv(Members members, const Counts& counts, void* stream);
void events(Members members, const Counts& counts, void* stream);

void encode_rows(const RowsJob& job, void* stream);
int64_t attend_workspace(const AttendJob& job);  // floats
void attend(const AttendJob& job, void* stream);

}  // namespace spikeconv::cuda
