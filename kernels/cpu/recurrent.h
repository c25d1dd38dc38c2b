// A whole recurrent model (RWKV-4 and -6) in one call: tokens → logits, and a state of one size.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine_kernels.h"
#include "plan.h"

namespace spikeconv {

struct Stretch;

struct LayerNorm {
  const float *weight, *bias;  // [hidden]
  float epsilon;
};

// A linear behind an encoder of its own, and what its input is made of: x - center, times balance, of tokens that are mixed
// with the one before. Null: without.
struct RolePlan {
  GroupPlan group;
  const float *mix, *center, *balance;
};

// RWKV-6: by what each token is mixed with the one before, and how fast it lets the state decay, as small products say.
struct DataMixing {
  const float* first;    // [hidden] mix of what the others are computed of
  FloatRows down;        // [5 · mix_rank] of hidden
  FloatRows up;          // 5 · [hidden] of mix_rank
  const float* mixes;    // [5][hidden] of decay, key, value, receptance, gate
  FloatRows decay_down;  // [decay_rank] of hidden
  FloatRows decay_up;    // [hidden] of decay_rank
};

struct RecurrentLayer {
  LayerNorm first, second;                           // in front of time mixing and of channel mixing
  RolePlan key, value, receptance, gate, output;     // of time mixing; the gate is RWKV-6's
  RolePlan channel_key, channel_receptance, channel_value;
  const float *decay, *bonus;                        // [hidden] w (RWKV-6: what is added to it) and u of the recurrence
  DataMixing data;                                   // RWKV-6's, as is
  LayerNorm heads;                                   // of what comes out, head by head
};

// A model with all arguments checked, as the bytes of a tensor; layers behind it. The tensors that it points to are its
// maker's to keep (spikeconv/engine/).
struct RecurrentPlan {
  int64_t layers, hidden, intermediate, vocabulary;
  int64_t heads, mix_rank, decay_rank;  // 0: RWKV-4
  FloatRows embedding;    // [vocabulary] of hidden
  LayerNorm entry, last;  // in front of the first layer, and of the head
  FloatRows head;         // [vocabulary] of hidden; null data: none
  const float* head_bias;

  int64_t head_size() const { return hidden / heads; }
};

// Some more tokens of one sequence.
struct Text {
  int64_t begin, count;  // its tokens
  int64_t slot;          // its place in the state
};

// What is remembered of each sequence, each [layers][slots][hidden]: last inputs of channel and of time mixing; numerator,
// denominator and exponent of the recurrence, or [layers][slots][hidden · head size] in place of these.
struct RecurrentState {
  std::array<float*, 5> parts;
  int64_t slots;
  float* at(int part, int64_t width, int64_t layer, int64_t slot) const {
    return parts[size_t(part)] + (layer * slots + slot) * width;
  }
};

// What was computed on the way, per layer and token, one after the other. Time mixing: what goes into its norm, and comes
// out; what key, value and receptance read; those three; their result; the output projection. Channel mixing: their sum,
// and the norm of it; what key and receptance read; those two; what value reads; its output. RWKV-6 has in place of the first
// eight: the norm's input and output; what decay is computed of, the decay; what key, value, receptance and gate read, and
// those; what the heads give.
inline int64_t trace_width(const RecurrentPlan& m) { return (m.heads ? 21 : 16) * m.hidden + 2 * m.intermediate; }

// As run_forward; a slot has one text at most.
void run_recurrent(const RecurrentPlan& model, const RecurrentLayer* layers, std::span<const Text> texts,
                   const int64_t* tokens, int64_t count, const RecurrentState& state, const Stretch& stretch,
                   std::span<const int64_t> wanted, bool logits, float* out, double* seconds);

}  // namespace spikeconv
