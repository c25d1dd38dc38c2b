// A whole decoder model in one call: tokens → logits, by products of counts and floats between them.
#pragma once

#include <cstdint>
#include <span>

#include "engine_kernels.h"
#include "plan.h"

namespace spikeconv {

// One gated decoder layer (LLaMA, Mistral, Qwen2, Qwen3).
struct LayerPlan {
  GroupPlan qkv, output, gate_up, down;
  const float *query_norm, *key_norm;  // [head_dim] of q and k before they are turned; null: none
  float norm_epsilon;
  int64_t window;  // keys that a token sees; 0: all
};

// Keys and values as rows of counts (common/rows.h), and the rotation of a head that they are encoded in.
struct RowPlan {
  RowSettings settings;
  Transform rotation, inverse;  // `inverse` without the signs, which come behind it
  bool used() const { return settings.ratio_count > 0; }  // or they are floats
};

// A model with all arguments checked, as the bytes of a tensor; layers behind it. The tensors that it points to are its
// maker's to keep (spikeconv/engine/).
struct ModelPlan {
  int64_t layers, hidden, heads, key_heads, head_dim, intermediate, vocabulary, positions;
  float scaling;
  FloatRows embedding;  // [vocabulary] of hidden
  const float* norm;    // [hidden] in front of the head
  float norm_epsilon;
  FloatRows head;       // [vocabulary] of hidden; null data: none
  const float* head_bias;
  const float *cos, *sin;  // [positions][head_dim]
  RowPlan rows;

  int64_t query_width() const { return heads * head_dim; }
  int64_t key_width() const { return key_heads * head_dim; }
};

// What a forward's time went into.
enum class Part : int { encode, products, attention, head, rest, count };

// One sequence of a forward.
struct Sequence {
  int64_t begin, count;  // its tokens
  int64_t slot;          // its place in the cache
  int64_t at, first;     // which key its first token's is, and the first that there is
  int64_t position;      // of its first token
  Fork fork;

  int64_t row() const { return fork.row_of(at); }  // of its first token's key
};

// Keys and values of all layers: [layers][slots][key heads][capacity] of head_dim floats, or of rows of counts.
struct Cache {
  void *keys, *values;
  Dtype dtype;  // of floats
  int64_t slots, capacity;
  int64_t bytes;  // of a key
  char* at(void* base, const ModelPlan& m, int64_t layer, int64_t slot, int64_t key_head, int64_t index) const {
    return static_cast<char*>(base) + (((layer * slots + slot) * m.key_heads + key_head) * capacity + index) * bytes;
  }
};

// What was computed on the way, for those who compare: per layer and token, one after the other: the layer's input; q, k,
// v; attention's output; the output projection; their sum; gate, up; what goes into the down projection; its output.
inline int64_t trace_width(const ModelPlan& m) {
  return 4 * m.hidden + 2 * m.query_width() + 2 * m.key_width() + 3 * m.intermediate;
}

// Layers of a forward from `first` up to, not including, `last`. `stream` [tokens][hidden] has what goes into the first, unless
// that is the model's, and is told what comes out of the last; null: nobody asks, and they are all layers. `trace` [layers]
// [tokens][trace_width] may be null.
struct Stretch {
  int64_t first, last;
  float *stream, *trace;
};

// Behind the model's last layer, of some rows of the tokens: logits [wanted][vocabulary], or what the head reads,
// [wanted][hidden]. What each part took is added to `seconds`.
void run_forward(const ModelPlan& model, const LayerPlan* layers, std::span<const Sequence> sequences,
                 const int64_t* tokens, int64_t count, const Cache& cache, const Stretch& stretch,
                 std::span<const int64_t> wanted, bool logits, float* out, double* seconds);

// logits [rows][vocabulary] = x [rows][n] · weight ᵀ + bias
void run_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t vocabulary,
              float* logits);

// Of the tokens asked for, by token: log softmax of those logits, and whether none of its row's is higher.
void run_likelihoods(const FloatRows& weight, const float* bias, int64_t vocabulary, const float* x, int64_t rows, int64_t n,
                     std::span<const Asked> asked, double* likelihoods, bool* is_best);

}  // namespace spikeconv
