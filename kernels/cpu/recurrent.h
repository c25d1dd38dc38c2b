// A whole recurrent model (RWKV-4) in one call: tokens → logits, and a state of one size.
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

struct RecurrentLayer {
  LayerNorm first, second;                        // in front of time mixing and of channel mixing
  RolePlan key, value, receptance, output;        // of time mixing
  RolePlan channel_key, channel_receptance, channel_value;
  const float *decay, *bonus;                     // [hidden] w and u of the recurrence
};

// A model with all arguments checked, as the bytes of a tensor; layers behind it. The tensors that it points to are its
// maker's to keep (spikeconv/engine/).
struct RecurrentPlan {
  int64_t layers, hidden, intermediate, vocabulary;
  FloatRows embedding;    // [vocabulary] of hidden
  LayerNorm entry, last;  // in front of the first layer, and of the head
  FloatRows head;         // [vocabulary] of hidden; null data: none
  const float* head_bias;
};

// Some more tokens of one sequence.
struct Text {
  int64_t begin, count;  // its tokens
  int64_t slot;          // its place in the state
};

// What is remembered of each sequence, each [layers][slots][hidden]: last inputs of channel and of time mixing; numerator,
// denominator and exponent of the recurrence.
struct RecurrentState {
  std::array<float*, 5> parts;
  int64_t slots;
  float* at(int part, int64_t hidden, int64_t layer, int64_t slot) const {
    return parts[size_t(part)] + (layer * slots + slot) * hidden;
  }
};

// What was computed on the way, per layer and token, one after the other. Time mixing: what goes into its norm, and comes
// out; what key, value and receptance read; those three; their result; the output projection. Channel mixing: their sum,
// and the norm of it; what key and receptance read; those two; what value reads; its output.
inline int64_t trace_width(const RecurrentPlan& m) { return 16 * m.hidden + 2 * m.intermediate; }

// As run_forward; a slot has one text at most.
void run_recurrent(const RecurrentPlan& model, const RecurrentLayer* layers, std::span<const Text> texts,
                   const int64_t* tokens, int64_t count, const RecurrentState& state, const Stretch& stretch,
                   std::span<const int64_t> wanted, bool logits, float* out, double* seconds);

}  // namespace spikeconv
