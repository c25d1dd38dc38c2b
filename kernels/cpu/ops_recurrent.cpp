// The ops of recurrent models: a plan, and a forward of it.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

#include "engine_tensors.h"
#include "recurrent.h"

namespace spikeconv {
namespace {

// One layer's norms, plans and vectors, each taken in turn.
class LayerArguments {
 public:
  LayerArguments(const RecurrentPlan& m, const std::vector<double>& epsilons, const Tensors& norms, const Tensors& groups,
                 const std::vector<OptionalTensor>& vectors)
      : m_(m), epsilons_(epsilons), norms_(norms), groups_(groups), vectors_(vectors) {}

  LayerNorm norm() {
    STD_TORCH_CHECK(norm_ < epsilons_.size() && 2 * norm_ + 1 < norms_.size(), "spikeconv: a norm is missing");
    const size_t i = norm_++;
    return {kept_floats(norms_[2 * i], m_.hidden, "a norm's weight"), kept_floats(norms_[2 * i + 1], m_.hidden, "a norm's bias"),
            float(epsilons_[i])};
  }

  RolePlan role(int64_t inputs, int64_t outputs, bool mixes, const char* what) {
    STD_TORCH_CHECK(group_ < groups_.size(), "spikeconv: the plan of ", what, " is missing");
    const GroupPlan group = group_of(groups_[group_++], inputs, {outputs}, what);
    const float *mix = next(inputs, "a mix"), *center = next(inputs, "a center"), *balance = next(inputs, "a balance");
    STD_TORCH_CHECK((mix != nullptr) == mixes, "spikeconv: the input of ", what,
                    mixes ? " is mixed with the token before" : " is not mixed by a vector");
    return {group, mix, center, balance};
  }

  const float* vector(int64_t count, const char* what) {
    const float* found = next(count, what);
    STD_TORCH_CHECK(found, "spikeconv: ", what, " is missing");
    return found;
  }

  FloatRows rows(int64_t count, int64_t width, const char* what) { return {vector(count * width, what), Dtype::float32, width}; }

  void finish() const {
    STD_TORCH_CHECK(norm_ == epsilons_.size() && 2 * norm_ == norms_.size() && group_ == groups_.size() &&
                        vector_ == vectors_.size(),
                    "spikeconv: more norms, plans or vectors than a model of that kind has");
  }

 private:
  const float* next(int64_t count, const char* what) {
    STD_TORCH_CHECK(vector_ < vectors_.size(), "spikeconv: ", what, " is missing");
    return if_kept(vectors_[vector_++], count, what);
  }

  const RecurrentPlan& m_;
  const std::vector<double>& epsilons_;
  const Tensors &norms_, &groups_;
  const std::vector<OptionalTensor>& vectors_;
  size_t norm_ = 0, group_ = 0, vector_ = 0;
};

RecurrentLayer layer_of(const RecurrentPlan& m, LayerArguments& given) {
  const int64_t n = m.hidden;
  const bool mixes = !m.heads;  // by vectors, in time mixing
  RecurrentLayer layer{};
  layer.first = given.norm(), layer.second = given.norm();
  layer.key = given.role(n, n, mixes, "key");
  layer.value = given.role(n, n, mixes, "value");
  layer.receptance = given.role(n, n, mixes, "receptance");
  if (m.heads) layer.gate = given.role(n, n, false, "gate");
  layer.output = given.role(n, n, false, "output");
  layer.channel_key = given.role(n, m.intermediate, true, "the key of channel mixing");
  layer.channel_receptance = given.role(n, n, true, "the receptance of channel mixing");
  layer.channel_value = given.role(m.intermediate, n, false, "the value of channel mixing");
  layer.decay = given.vector(n, "the decay");
  layer.bonus = given.vector(n, "the bonus");
  if (!m.heads) return layer;
  layer.heads = given.norm();
  layer.data.first = given.vector(n, "the first mix");
  layer.data.down = given.rows(5 * m.mix_rank, n, "the mixes' down projection");
  layer.data.up = given.rows(5 * n, m.mix_rank, "the mixes' up projection");
  layer.data.mixes = given.vector(5 * n, "the mixes");
  layer.data.decay_down = given.rows(m.decay_rank, n, "the decay's down projection");
  layer.data.decay_up = given.rows(n, m.decay_rank, "the decay's up projection");
  return layer;
}

// sizes: layers, hidden, intermediate, vocabulary; heads and the ranks of mixes and decay, 0 for RWKV-4.
// epsilons: of the norms in front of the first layer and of the head; then of those of each layer.
// tensors: embedding; head, its scales and its bias (these may be none).
// norms: weight and bias of each, in the order of their epsilons.
// groups, vectors: of each layer, in the order of `layer_of`.
Tensor plan_recurrent(const std::vector<int64_t>& sizes, const std::vector<double>& epsilons,
                      const std::vector<OptionalTensor>& tensors, const Tensors& norms, const Tensors& groups,
                      const std::vector<OptionalTensor>& vectors) {
  STD_TORCH_CHECK(sizes.size() == 7 && tensors.size() == 4 && tensors[0], "spikeconv: not a model's arguments");
  for (size_t i = 0; i < 4; ++i) STD_TORCH_CHECK(sizes[i] > 0, "spikeconv: a model's sizes are above 0");
  RecurrentPlan m{};
  m.layers = sizes[0], m.hidden = sizes[1], m.intermediate = sizes[2], m.vocabulary = sizes[3];
  m.heads = sizes[4], m.mix_rank = sizes[5], m.decay_rank = sizes[6];
  STD_TORCH_CHECK(m.heads == 0 || (m.heads > 0 && m.hidden % m.heads == 0 && m.mix_rank > 0 && m.decay_rank > 0),
                  "spikeconv: ", m.heads, " heads of ", m.hidden, " channels, with mixes of rank ", m.mix_rank, " and ",
                  m.decay_rank);
  LayerArguments given(m, epsilons, norms, groups, vectors);
  m.embedding = kept_rows(*tensors[0], m.vocabulary, m.hidden, "the embedding");
  m.entry = given.norm(), m.last = given.norm();
  if (tensors[1]) m.head = kept_head(*tensors[1], tensors[2], m.vocabulary, m.hidden);
  m.head_bias = if_kept(tensors[3], m.vocabulary, "the head's bias");
  const int64_t size = sizeof(RecurrentLayer);
  Tensor bytes = make({int64_t(sizeof(RecurrentPlan)) + m.layers * size}, aoti_torch_dtype_uint8());
  char* to = static_cast<char*>(bytes.data_ptr());
  std::memcpy(to, &m, sizeof(m));
  for (int64_t l = 0; l < m.layers; ++l) {
    const RecurrentLayer layer = layer_of(m, given);
    std::memcpy(to + sizeof(m) + l * size, &layer, sizeof(layer));
  }
  given.finish();
  return bytes;
}

// Last inputs of channel and of time mixing, [slots, hidden, layers], of which the channels of a slot and layer lie beside
// each other, slot behind slot. Then of RWKV-4 numerator, denominator and exponent, alike; of RWKV-6 [layers, slots, heads,
// head size, head size].
RecurrentState state_of(const RecurrentPlan& m, const Tensors& parts) {
  const char* words = "spikeconv: the state is not one of this model";
  STD_TORCH_CHECK(parts.size() == (m.heads ? 3 : 5) && parts[0].dim() == 3, words);
  RecurrentState state{{}, parts[0].size(0)};
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor& t = parts[i];
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && !t.is_cuda(), words);
    state.parts[i] = data<float>(t);
    if (m.heads && i == 2) {
      const int64_t size = m.head_size();
      STD_TORCH_CHECK(t.dim() == 5 && t.size(0) == m.layers && t.size(1) == state.slots && t.size(2) == m.heads &&
                          t.size(3) == size && t.size(4) == size && t.is_contiguous(),
                      words);
      continue;
    }
    STD_TORCH_CHECK(t.dim() == 3 && t.size(0) == state.slots && t.size(1) == m.hidden && t.size(2) == m.layers, words);
    const bool lies = (state.slots == 1 || t.stride(0) == m.hidden) && (m.hidden == 1 || t.stride(1) == 1) &&
                      (m.layers == 1 || t.stride(2) == state.slots * m.hidden);
    STD_TORCH_CHECK(lies, "spikeconv: the state does not lie as the engine reads it");
  }
  return state;
}

// tokens int64 [T]; texts int64 [S, 3], see Text; the parts of a state, written to, see state_of; the rest as of run_model.
// Returns logits [R, vocabulary], or what the head reads, [R, hidden].
Tensor run_recurrent_model(const Tensor& plan, const Tensor& tokens, const Tensor& texts, const Tensors& parts,
                           const Tensor& wanted, bool wants_logits, const Tensor& seconds, int64_t first, int64_t last,
                           const Tensor& stream, const Tensor& trace) {
  const Planned<RecurrentPlan, RecurrentLayer> planned(plan);
  const RecurrentPlan& m = planned.model;
  check_tokens(tokens, m.vocabulary, wanted);
  const RecurrentState state = state_of(m, parts);
  const int64_t count = tokens.numel(), *given = kept_sequences(texts, 3);
  std::vector<Text> all;
  std::vector<bool> taken(size_t(state.slots), false);
  Following following(count, state.slots);
  for (int64_t i = 0; i < texts.size(0); ++i, given += 3) {
    const Text text{given[0], given[1], given[2]};
    following.add(text.begin, text.count, text.slot);
    STD_TORCH_CHECK(!taken[size_t(text.slot)], "spikeconv: two sequences write to the state of slot ", text.slot);
    taken[size_t(text.slot)] = true;
    all.push_back(text);
  }
  following.finish();
  const Stretch stretch =
      stretch_of({first, last}, m.layers, stream, count * m.hidden, trace, count * trace_width(m), wanted.numel());
  Tensor out = planned.results(wanted.numel(), wants_logits);
  if (count)
    run_recurrent(m, planned.layers, all, data<const int64_t>(tokens), count, state, stretch,
                  {data<const int64_t>(wanted), size_t(wanted.numel())}, wants_logits, data<float>(out),
                  kept_seconds(seconds));
  return out;
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def(
      "plan_recurrent(int[] sizes, float[] epsilons, Tensor?[] tensors, Tensor[] norms, Tensor[] groups,"
      " Tensor?[] vectors) -> Tensor");
  m.def(
      "run_recurrent(Tensor plan, Tensor tokens, Tensor texts, Tensor(a!)[] state, Tensor wanted, bool wants_logits,"
      " Tensor(b!) seconds, int first, int last, Tensor(c!) stream, Tensor(d!) trace) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("plan_recurrent", TORCH_BOX(&spikeconv::plan_recurrent));
  m.impl("run_recurrent", TORCH_BOX(&spikeconv::run_recurrent_model));
}
