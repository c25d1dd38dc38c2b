// Ops of a float output head: logits, or what a softmax over them says of some tokens.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "engine.h"
#include "engine_tensors.h"
#include "parallel.h"

namespace spikeconv {
namespace {

// Weights float32, bfloat16 or int8 with scales, all else float32.
struct HeadTensors {
  HeadTensors(const Tensor& x, const Tensor& weight, const OptionalTensor& scale, const OptionalTensor& added)
      : in(beside(x, x, ScalarType::Float)) {
    STD_TORCH_CHECK(weight.dim() == 2, "spikeconv: a head has two axes");
    vocabulary = weight.size(0), n = weight.size(1);
    rows = kept_head(weight, scale, vocabulary, n);
    bias = if_kept(added, vocabulary, "the head's bias");
    STD_TORCH_CHECK(in.dim() >= 1 && in.size(in.dim() - 1) == n && !in.is_cuda(), "spikeconv: inputs of another size than the head's");
  }
  Tensor in;
  int64_t vocabulary, n;
  FloatRows rows;
  const float* bias;
};

// x [..., n] · weight [vocabulary, n]ᵀ + bias
Tensor float_head(const Tensor& x, const Tensor& weight, const OptionalTensor& scale, const OptionalTensor& bias) {
  const HeadTensors head(x, weight, scale, bias);
  Tensor logits = make(with_last(head.in, head.vocabulary), aoti_torch_dtype_float32());
  hold_threads([&] {
    run_head(head.rows, head.bias, data<const float>(head.in), tokens_of(head.in), head.n, head.vocabulary,
             data<float>(logits));
  });
  return logits;
}

// log softmax(x [R, n] · weightᵀ + bias)[rows, tokens], and whether no other token has a higher logit
std::tuple<Tensor, Tensor> head_likelihoods(const Tensor& x, const Tensor& weight, const OptionalTensor& scale,
                                            const OptionalTensor& bias, const Tensor& rows, const Tensor& tokens) {
  const HeadTensors head(x, weight, scale, bias);
  const int64_t count = tokens.numel(), there = tokens_of(head.in);
  STD_TORCH_CHECK(rows.numel() == count, "spikeconv: a row for each token");
  const int64_t *row = kept_integers(rows, "rows"), *token = kept_integers(tokens, "tokens");
  std::vector<Asked> asked;
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(row[i] >= 0 && row[i] < there && token[i] >= 0 && token[i] < head.vocabulary,
                    "spikeconv: token ", token[i], " of row ", row[i], " is asked for, of ", there, " rows and ",
                    head.vocabulary, " tokens");
    asked.push_back({token[i], row[i], i});
  }
  std::sort(asked.begin(), asked.end(), [](const Asked& a, const Asked& b) {
    return a.token != b.token ? a.token < b.token : a.index < b.index;
  });
  Tensor likelihoods = make({count}, aoti_torch_dtype_float64()), is_best = make({count}, aoti_torch_dtype_bool());
  hold_threads([&] {
    run_likelihoods(head.rows, head.bias, head.vocabulary, data<const float>(head.in), there, head.n, asked,
                    data<double>(likelihoods), data<bool>(is_best));
  });
  return {likelihoods, is_best};
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def("float_head(Tensor x, Tensor weight, Tensor? scale, Tensor? bias) -> Tensor");
  m.def(
      "head_likelihoods(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, Tensor rows, Tensor tokens)"
      " -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("float_head", TORCH_BOX(&spikeconv::float_head));
  m.impl("head_likelihoods", TORCH_BOX(&spikeconv::head_likelihoods));
}
