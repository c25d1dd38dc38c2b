// Several steps of a model in one call, for which all arguments were checked beforehand.
#pragma once

#include <tuple>

#include "run.h"
#include "tensors.h"

namespace spikeconv {

// An encoder and the linears behind it with all arguments checked, as the bytes of a tensor: at one token, taking the
// arguments of `encode` and `linears` apart takes longer than their work. The tensors that it points to are its
// maker's to keep (spikeconv/nn/group.py).
struct GroupPlan {
  static constexpr int64_t kMostMembers = 8;
  EncodeJob job;
  ProductSettings products;
  int64_t member_count;
  Member members[kMostMembers];
};

// The outputs of a group's linears for x [..., in].
Tensors run_group(const Tensor& x, const Tensor& plan);

// A gated decoder layer for one more token of every sequence, float32: the same operations in the same order as in
// transformers, so the same bits.
//   x [batch, 1, hidden]; cos, sin [1 or batch, 1, head_dim]; keys, values [batch, kv_heads, past, head_dim]; plans of
//   q|k|v, the output projection, gate|up and the down projection.
// Returns the layer's output and the grown keys and values.
std::tuple<Tensor, Tensor, Tensor> decode_layer(const Tensor& x, const Tensor& cos, const Tensor& sin,
                                                const Tensor& keys, const Tensor& values, const Tensors& plans,
                                                double scaling);

}  // namespace spikeconv
