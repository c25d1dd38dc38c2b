// What each instruction set provides of a model's float parts, on raw pointers.
#pragma once

#include <stdint.h>

namespace spikeconv {

enum class Dtype : int;

constexpr int64_t kScaled = 32;  // int8 numbers that share a scale

// Rows of floats: float32, bfloat16, or int8 with scales.
struct FloatRows {
  const void* data;
  Dtype dtype;
  int64_t stride;                 // numbers from one row to the next
  const float* scales = nullptr;  // of int8, [rows][stride / kScaled]
};

// Where keys lie in a slot of a cache: those from `key` on are one sequence's own, `gap` rows further on; those before it
// are others' too.
struct Fork {
  int64_t key, gap;
  int64_t row_of(int64_t k) const { return k < key ? k : k + gap; }
  // Whether keys [begin, begin + n) lie on both sides of the gap.
  bool parts(int64_t begin, int64_t n) const { return gap && begin < key && key < begin + n; }
};

// One sequence's tokens and one of its key heads. A row is a query: repeats of token 0, of token 1, …
struct FloatAttendJob {
  const float* query;  // token t, head r: query + t · query_stride + r · dim
  int64_t query_stride;
  FloatRows keys, values;  // [length] of dim
  int64_t at;              // which key is token 0's own
  int64_t first;           // first key there is
  Fork fork;
  int64_t window;          // keys that a token sees, itself included; 0: all
  int64_t repeats, dim;
  float scaling;
  const float* row(int64_t row) const { return query + row / repeats * query_stride + row % repeats * dim; }
  // First and last key that a row sees.
  int64_t low(int64_t row) const {
    const int64_t own = at + row / repeats;
    return window && own - window + 1 > first ? own - window + 1 : first;
  }
  int64_t high(int64_t row) const { return at + row / repeats; }
};

struct FloatAttendPart {
  int64_t row_begin, row_end, key_begin, key_end;
  int64_t rows() const { return row_end - row_begin; }
};

// Some tokens of one sequence, [tokens][stride] of each; channels have a state of their own.
struct WkvJob {
  const float *key, *value;
  float* receptance;  // replaced by what comes out
  int64_t stride, tokens;
  const float *decay, *first;                     // [channels] w and u
  float *numerator, *denominator, *exponent;      // [channels] both sums are to be scaled by e^exponent
};

// The same of one head of RWKV-6, whose state is a matrix [size][size].
struct MatrixWkvJob {
  const float *receptance, *key, *value, *decay;
  float* out;
  int64_t stride, tokens, size;
  const float* first;  // [size] u
  float* state;
};

// A token whose log likelihood in some row is asked for.
struct Asked {
  int64_t token, row, index;  // index: where its logit goes
};

// Logits of x [rows, n], of which only what a softmax needs is kept, for pieces of kPieceOutputs tokens: the highest, whose
// it is, and Σ e^(logit - highest), each [pieces][padded].
struct LikelihoodJob {
  FloatRows weight;  // [vocabulary]
  const float* bias;
  int64_t vocabulary;
  const float* x;
  int64_t rows, n;
  const Asked *asked, *asked_end;  // by token
  float* logits;                   // by Asked::index
  int64_t padded;
  float *peaks, *sums;
  int32_t* best;
};

struct EngineKernels {
  // γ · x / √(mean x² + ε), as in front of encoders; scratch of 2 n floats.
  void (*normalize)(const float* x, int64_t n, const float* gamma, float epsilon, float* out, float* scratch);
  // x · cos + (-x₂, x₁) · sin in place, for one head.
  void (*rotary)(float* x, const float* cos, const float* sin, int64_t dim);
  // to += from
  void (*add)(float* to, const float* from, int64_t n);
  // out = silu(gate) · up
  void (*gate)(const float* gate, const float* up, int64_t n, float* out);
  // Numbers of a type to and from floats.
  void (*widen)(const void* from, Dtype dtype, int64_t begin, int64_t n, float* to);
  void (*narrow)(const float* from, int64_t n, Dtype dtype, void* to);
  // Records [rows][dim + 2] of a part (see Kernels::attend); scratch of `float_attend_scratch(…)` floats.
  void (*attend)(const FloatAttendJob&, const FloatAttendPart&, float* records, float* scratch);
  // out[row][r] = weight row r · x row + bias, r in [begin, end); x [rows, n]. Scratch of `head_scratch(…)` floats.
  void (*head)(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t begin,
               int64_t end, float* out, int64_t out_stride, float* scratch);
  // Pieces [begin, end) of a job; the same scratch.
  void (*likelihoods)(const LikelihoodJob&, int64_t begin, int64_t end, float* scratch);
  // Of recurrent models. γ (x - μ) / σ + β; x may be out.
  void (*layer_norm)(const float* x, int64_t n, const float* weight, const float* bias, float epsilon, float* out);
  // out = before + mix · (x - before)
  void (*blend)(const float* before, const float* x, const float* mix, int64_t n, float* out);
  // x = (x - center) · balance; null: without
  void (*prepare)(float* x, const float* center, const float* balance, int64_t n);
  // x = relu(x)²
  void (*relu_squared)(float* x, int64_t n);
  // to += σ(receptance) · value
  void (*add_gated)(float* to, const float* receptance, const float* value, int64_t n);
  // σ(receptance) · wkv of the channels [begin, end)
  void (*wkv)(const WkvJob&, int64_t begin, int64_t end);
  // out = x + (before - x) · (mix + more)
  void (*blend_by)(const float* before, const float* x, const float* mix, const float* more, int64_t n, float* out);
  // x = tanh(x), and x = e^-e^x
  void (*tanh)(float* x, int64_t n);
  void (*decay)(float* x, int64_t n);
  void (*wkv_matrix)(const MatrixWkvJob&);
};

constexpr int64_t kFewQueryRows = 8;          // queries up to which keys are read once for all of them, lane by lane
constexpr int64_t kFewKeys = 256;        // keys of a part with few queries
constexpr int64_t kMostRows = 128;       // queries of a part
constexpr int64_t kHeadRows = 48;        // rows of the head at a time
constexpr int64_t kHeadPanels = 4;       // panels of rows of x that meet them
constexpr int64_t kMostPanel = 32;       // rows of a panel with any instruction set
constexpr int64_t kPieceOutputs = 8 * kHeadRows;
constexpr int64_t kHeadFew = 12;         // tokens up to which the head's weights are streamed

// Bound of queries and sums, of a tile of keys and values, each perhaps in three halves of a float; scores and weights.
inline int64_t float_attend_scratch(int64_t dim) {
  return 3 * (kMostRows + 32) * dim + 4 * 64 * dim + (kMostRows + 64) * 64 + kFewQueryRows * (kFewKeys + 2 * dim) + 8192;
}
inline int64_t head_scratch(int64_t n) {
  return kHeadPanels * kMostPanel * (3 * n + kHeadRows + 64) + (kHeadRows + 2 * n) * 128 + 4096;
}

}  // namespace spikeconv
