// The ops of recurrent models: a plan, and a forward of it.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

#include "engine_tensors.h"
#include "recurrent.h"

namespace spikeconv {
namespace {

constexpr size_t kRoles = 7, kVectors = 3 * kRoles + 2;  // of a layer

const float* if_kept(const OptionalTensor& t, int64_t count, const char* what) {
  return t ? kept_floats(*t, count, what) : nullptr;
}

// sizes: layers, hidden, intermediate, vocabulary.
// epsilons: of the norms in front of the first layer and of the head; then of the two of each layer.
// tensors: embedding; head, its scales and its bias (these may be none).
// norms: weight and bias of each, in the order of their epsilons.
// groups: key, value, receptance and output of time mixing, key, receptance and value of channel mixing, of each layer.
// vectors: of each of these what it is mixed by, its center and its balance; then w and u of the recurrence.
Tensor plan_recurrent(const std::vector<int64_t>& sizes, const std::vector<double>& epsilons,
                      const std::vector<OptionalTensor>& tensors, const Tensors& norms, const Tensors& groups,
                      const std::vector<OptionalTensor>& vectors) {
  STD_TORCH_CHECK(sizes.size() == 4 && tensors.size() == 4 && tensors[0], "spikeconv: not a model's arguments");
  for (const int64_t size : sizes) STD_TORCH_CHECK(size > 0, "spikeconv: a model's sizes are above 0");
  RecurrentPlan m{};
  m.layers = sizes[0], m.hidden = sizes[1], m.intermediate = sizes[2], m.vocabulary = sizes[3];
  const size_t layers = size_t(m.layers);
  const int64_t hidden = m.hidden, inner = m.intermediate;
  STD_TORCH_CHECK(epsilons.size() == 2 + 2 * layers && norms.size() == 2 * epsilons.size(),
                  "spikeconv: two norms for each layer, and two for the model");
  STD_TORCH_CHECK(groups.size() == kRoles * layers && vectors.size() == kVectors * layers,
                  "spikeconv: seven plans and ", int64_t(kVectors), " vectors for each layer");
  const auto norm = [&](size_t i) {
    return LayerNorm{kept_floats(norms[2 * i], hidden, "a norm's weight"), kept_floats(norms[2 * i + 1], hidden, "a norm's bias"),
                     float(epsilons[i])};
  };
  m.embedding = kept_rows(*tensors[0], m.vocabulary, hidden, "the embedding");
  m.entry = norm(0), m.last = norm(1);
  if (tensors[1]) m.head = kept_head(*tensors[1], tensors[2], m.vocabulary, hidden);
  m.head_bias = if_kept(tensors[3], m.vocabulary, "the head's bias");
  Tensor bytes = make({int64_t(sizeof(RecurrentPlan) + layers * sizeof(RecurrentLayer))}, aoti_torch_dtype_uint8());
  char* to = static_cast<char*>(bytes.data_ptr());
  std::memcpy(to, &m, sizeof(m));
  for (size_t l = 0; l < layers; ++l) {
    size_t next = 0;
    const auto role = [&](int64_t inputs, int64_t outputs, bool mixes, const char* what) {
      const OptionalTensor* own = &vectors[kVectors * l + 3 * next];
      const GroupPlan group = group_of(groups[kRoles * l + next++], inputs, {outputs}, what);
      STD_TORCH_CHECK(own[0].has_value() == mixes, "spikeconv: the input of ", what,
                      mixes ? " is mixed with the token before" : " is of one token");
      return RolePlan{group, if_kept(own[0], inputs, "a mix"), if_kept(own[1], inputs, "a center"),
                      if_kept(own[2], inputs, "a balance")};
    };
    RecurrentLayer layer{};
    layer.first = norm(2 + 2 * l), layer.second = norm(3 + 2 * l);
    layer.key = role(hidden, hidden, true, "key");
    layer.value = role(hidden, hidden, true, "value");
    layer.receptance = role(hidden, hidden, true, "receptance");
    layer.output = role(hidden, hidden, false, "output");
    layer.channel_key = role(hidden, inner, true, "the key of channel mixing");
    layer.channel_receptance = role(hidden, hidden, true, "the receptance of channel mixing");
    layer.channel_value = role(inner, hidden, false, "the value of channel mixing");
    const OptionalTensor* recurrence = &vectors[kVectors * l + 3 * kRoles];
    STD_TORCH_CHECK(recurrence[0] && recurrence[1], "spikeconv: the recurrence has a decay and a bonus");
    layer.decay = kept_floats(*recurrence[0], hidden, "the decay");
    layer.bonus = kept_floats(*recurrence[1], hidden, "the bonus");
    std::memcpy(to + sizeof(m) + l * sizeof(RecurrentLayer), &layer, sizeof(layer));
  }
  return bytes;
}

// Tensors [slots, hidden, layers], of which the channels of a slot and layer lie beside each other, slot behind slot.
RecurrentState state_of(const RecurrentPlan& m, std::array<const Tensor*, 5> parts) {
  RecurrentState state{{}, parts[0]->dim() ? parts[0]->size(0) : 0};
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor& t = *parts[i];
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && !t.is_cuda() && t.dim() == 3 && t.size(0) == state.slots &&
                        t.size(1) == m.hidden && t.size(2) == m.layers,
                    "spikeconv: the state is not one of this model");
    const bool lies = (state.slots == 1 || t.stride(0) == m.hidden) && (m.hidden == 1 || t.stride(1) == 1) &&
                      (m.layers == 1 || t.stride(2) == state.slots * m.hidden);
    STD_TORCH_CHECK(lies, "spikeconv: the state does not lie as the engine reads it");
    state.parts[i] = data<float>(t);
  }
  return state;
}

// tokens int64 [T]; texts int64 [S, 3], see Text; five parts of a state, see RecurrentState, written to; the rest as of
// run_model. Returns logits [R, vocabulary], or what the head reads, [R, hidden].
Tensor run_recurrent_model(const Tensor& plan, const Tensor& tokens, const Tensor& texts, const Tensor& channel_shift,
                           const Tensor& time_shift, const Tensor& numerator, const Tensor& denominator,
                           const Tensor& exponent, const Tensor& wanted, bool wants_logits, const Tensor& seconds,
                           int64_t first, int64_t last, const Tensor& stream, const Tensor& trace) {
  STD_TORCH_CHECK(plan.numel() >= int64_t(sizeof(RecurrentPlan)), "spikeconv: not a plan of this library");
  const RecurrentPlan& m = *static_cast<const RecurrentPlan*>(plan.data_ptr());
  STD_TORCH_CHECK(plan.numel() == int64_t(sizeof(RecurrentPlan)) + m.layers * int64_t(sizeof(RecurrentLayer)),
                  "spikeconv: not a plan of this library");
  check_tokens(tokens, m.vocabulary, wanted);
  const RecurrentState state = state_of(m, {&channel_shift, &time_shift, &numerator, &denominator, &exponent});
  const int64_t count = tokens.numel(), *given = kept_sequences(texts, 3);
  std::vector<Text> all;
  std::vector<bool> taken(size_t(state.slots), false);
  int64_t next = 0;
  for (int64_t i = 0; i < texts.size(0); ++i, given += 3) {
    const Text text{given[0], given[1], given[2]};
    STD_TORCH_CHECK(text.begin == next && text.count > 0 && text.count <= count - next,
                    "spikeconv: sequences must follow each other");
    STD_TORCH_CHECK(text.slot >= 0 && text.slot < state.slots, "spikeconv: slot ", text.slot, " of ", state.slots);
    STD_TORCH_CHECK(!taken[size_t(text.slot)], "spikeconv: two sequences write to the state of slot ", text.slot);
    taken[size_t(text.slot)] = true;
    all.push_back(text);
    next += text.count;
  }
  STD_TORCH_CHECK(next == count, "spikeconv: ", count, " tokens, but sequences of ", next);
  const Stretch stretch =
      stretch_of({first, last}, m.layers, stream, count * m.hidden, trace, count * trace_width(m), wanted.numel());
  STD_TORCH_CHECK(!wants_logits || m.head.data, "spikeconv: this model has no output head");
  Tensor out = make({wanted.numel(), wants_logits ? m.vocabulary : m.hidden}, aoti_torch_dtype_float32());
  if (count)
    run_recurrent(m, reinterpret_cast<const RecurrentLayer*>(static_cast<const char*>(plan.data_ptr()) + sizeof(RecurrentPlan)),
                  all, data<const int64_t>(tokens), count, state, stretch,
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
      "run_recurrent(Tensor plan, Tensor tokens, Tensor texts, Tensor(a!) channel_shift, Tensor(b!) time_shift,"
      " Tensor(c!) numerator, Tensor(d!) denominator, Tensor(e!) exponent, Tensor wanted, bool wants_logits,"
      " Tensor(f!) seconds, int first, int last, Tensor(g!) stream, Tensor(h!) trace) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("plan_recurrent", TORCH_BOX(&spikeconv::plan_recurrent));
  m.impl("run_recurrent", TORCH_BOX(&spikeconv::run_recurrent_model));
}
