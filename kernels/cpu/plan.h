// Several steps of a model in one call, for which all arguments were checked beforehand.
#pragma once

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

}  // namespace spikeconv
