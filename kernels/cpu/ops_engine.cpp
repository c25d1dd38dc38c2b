// The engine's ops: a model's plan, and a forward of it.
#include <torch/csrc/stable/library.h>

#include <cstring>

#include "engine.h"
#include "engine_tensors.h"
#include "parallel.h"

namespace spikeconv {
namespace {

// How keys and values are rows of counts, if the settings say so: `rotation` and `inverse` of a head.
RowPlan row_plan_of(int64_t head_dim, const std::vector<double>& settings, const Tensors& rotation,
                    const Tensors& inverse) {
  RowPlan plan{};
  if (settings.empty()) return plan;
  STD_TORCH_CHECK(!rotation.empty() && !inverse.empty(), "spikeconv: keys and values are rotated");
  plan.settings = RowSettings::from_table(settings, head_dim);
  Tensors keep;
  plan.rotation = transform_of(head_dim, rotation, keep);
  plan.inverse = transform_of(head_dim, inverse, keep);
  for (const Tensors* tensors : {&rotation, &inverse})
    for (const Tensor& t : *tensors) STD_TORCH_CHECK(t.is_contiguous(), "spikeconv: a plan takes contiguous tensors");
  return plan;
}

// sizes: layers, hidden, heads, key_heads, head_dim, intermediate, vocabulary, positions; then a window for each layer.
// numbers: scaling of scores, ε of the last norm, ε of the norms of queries and keys.
// tensors: embedding, cos, sin, norm; head, its scales and its bias (these may be none).
// groups: q|k|v, output, gate|up and down of each layer. head_norms: of q and k of each layer, or nothing.
// rows, rotation, inverse: see row_plan_of.
Tensor plan_model(const std::vector<int64_t>& sizes, const std::vector<double>& numbers,
                  const std::vector<OptionalTensor>& tensors, const Tensors& groups, const Tensors& head_norms,
                  const std::vector<double>& rows, const Tensors& rotation, const Tensors& inverse) {
  STD_TORCH_CHECK(sizes.size() >= 8 && numbers.size() == 3 && tensors.size() == 7, "spikeconv: not a model's arguments");
  for (size_t i = 0; i < 8; ++i) STD_TORCH_CHECK(sizes[i] > 0, "spikeconv: a model's sizes are above 0");
  ModelPlan m{};
  m.layers = sizes[0], m.hidden = sizes[1], m.heads = sizes[2], m.key_heads = sizes[3], m.head_dim = sizes[4];
  m.intermediate = sizes[5], m.vocabulary = sizes[6], m.positions = sizes[7];
  m.scaling = float(numbers[0]), m.norm_epsilon = float(numbers[1]);
  const size_t layers = size_t(m.layers);
  STD_TORCH_CHECK(sizes.size() == 8 + layers, "spikeconv: one window for each layer");
  STD_TORCH_CHECK(m.heads % m.key_heads == 0 && m.head_dim % 2 == 0, "spikeconv: heads that are not whole");
  STD_TORCH_CHECK(head_norms.empty() || head_norms.size() == 2 * layers, "spikeconv: two norms of heads for each layer");
  STD_TORCH_CHECK(groups.size() == 4 * layers, "spikeconv: four plans for each layer");
  for (const size_t needed : {0, 1, 2, 3}) STD_TORCH_CHECK(tensors[needed], "spikeconv: a tensor of the model is missing");
  m.embedding = kept_rows(*tensors[0], m.vocabulary, m.hidden, "the embedding");
  m.cos = kept_floats(*tensors[1], m.positions * m.head_dim, "cos");
  m.sin = kept_floats(*tensors[2], m.positions * m.head_dim, "sin");
  m.norm = kept_floats(*tensors[3], m.hidden, "the last norm");
  if (tensors[4]) m.head = kept_head(*tensors[4], tensors[5], m.vocabulary, m.hidden);
  m.head_bias = if_kept(tensors[6], m.vocabulary, "the head's bias");
  m.rows = row_plan_of(m.head_dim, rows, rotation, inverse);
  Tensor bytes = make({int64_t(sizeof(ModelPlan) + layers * sizeof(LayerPlan))}, aoti_torch_dtype_uint8());
  char* to = static_cast<char*>(bytes.data_ptr());
  std::memcpy(to, &m, sizeof(m));
  for (size_t l = 0; l < layers; ++l) {
    LayerPlan layer{};
    layer.qkv = group_of(groups[4 * l], m.hidden, {m.query_width(), m.key_width(), m.key_width()}, "q, k and v");
    layer.output = group_of(groups[4 * l + 1], m.query_width(), {m.hidden}, "the output projection");
    layer.gate_up = group_of(groups[4 * l + 2], m.hidden, {m.intermediate, m.intermediate}, "gate and up");
    layer.down = group_of(groups[4 * l + 3], m.intermediate, {m.hidden}, "the down projection");
    if (!head_norms.empty()) {
      layer.query_norm = kept_floats(head_norms[2 * l], m.head_dim, "the norm of queries");
      layer.key_norm = kept_floats(head_norms[2 * l + 1], m.head_dim, "the norm of keys");
    }
    layer.norm_epsilon = float(numbers[2]);
    layer.window = sizes[8 + l];
    STD_TORCH_CHECK(layer.window >= 0, "spikeconv: a window of ", layer.window, " keys");
    std::memcpy(to + sizeof(m) + l * sizeof(LayerPlan), &layer, sizeof(layer));
  }
  return bytes;
}

Cache cache_of(const ModelPlan& m, const Tensor& keys, const Tensor& values) {
  const bool half = keys.scalar_type() == ScalarType::BFloat16;
  const int64_t width = m.rows.used() ? row_bytes(m.rows.settings.shape) : m.head_dim;
  const ScalarType type = m.rows.used() ? ScalarType::Byte : half ? ScalarType::BFloat16 : ScalarType::Float;
  for (const Tensor* t : {&keys, &values})
    STD_TORCH_CHECK(t->dim() == 5 && t->size(0) == m.layers && t->size(2) == m.key_heads && t->size(4) == width &&
                        t->size(1) == keys.size(1) && t->size(3) == keys.size(3) && t->is_contiguous() &&
                        t->scalar_type() == type && !t->is_cuda(),
                    "spikeconv: the cache is not one of this model");
  return {keys.data_ptr(), values.data_ptr(), half ? Dtype::bfloat16 : Dtype::float32, keys.size(1), keys.size(3),
          width * (m.rows.used() ? 1 : half ? 2 : 4)};
}

// tokens int64 [T]; sequences int64 [S, 8], see Sequence; keys, values [layers, slots, key heads, capacity] of head_dim
// float32 or bfloat16 numbers, or of rows; wanted int64 [R], rows of tokens, none before the model's last layer; seconds
// float64 [parts], added to; first, last, stream, trace: see Stretch; the tensors may be empty.
// Returns logits [R, vocabulary], or what the head reads, [R, hidden].
Tensor run_model(const Tensor& plan, const Tensor& tokens, const Tensor& sequences, const Tensor& keys,
                 const Tensor& values, const Tensor& wanted, bool wants_logits, const Tensor& seconds, int64_t first,
                 int64_t last, const Tensor& stream, const Tensor& trace) {
  const Planned<ModelPlan, LayerPlan> planned(plan);
  const ModelPlan& m = planned.model;
  const int64_t count = tokens.numel();
  check_tokens(tokens, m.vocabulary, wanted);
  const int64_t *ids = data<const int64_t>(tokens), *rows = data<const int64_t>(wanted);
  const Cache cache = cache_of(m, keys, values);
  const int64_t* given = kept_sequences(sequences, 8);
  std::vector<Sequence> all;
  Following following(count, cache.slots);
  for (int64_t i = 0; i < sequences.size(0); ++i, given += 8) {
    const Sequence s{given[0], given[1], given[2], given[3], given[4], given[5], {given[6], given[7]}};
    following.add(s.begin, s.count, s.slot);
    STD_TORCH_CHECK(s.fork.gap == 0 ||
                        (s.fork.gap > 0 && s.fork.gap <= cache.capacity && s.first <= s.fork.key && s.fork.key <= s.at),
                    "spikeconv: a sequence forks behind key ", s.fork.key, ", with a gap of ", s.fork.gap);
    STD_TORCH_CHECK(s.first >= 0 && s.first <= s.at && s.at <= cache.capacity - s.count - s.fork.gap, "spikeconv: ",
                    s.row() + s.count, " tokens are more than the cache holds, ", cache.capacity);
    STD_TORCH_CHECK(s.position >= 0 && s.position <= m.positions - s.count, "spikeconv: position ",
                    s.position + s.count - 1, " is beyond the ", m.positions, " that were prepared");
    for (const Sequence& other : all)
      STD_TORCH_CHECK(other.slot != s.slot || other.row() + other.count <= s.row() || s.row() + s.count <= other.row(),
                      "spikeconv: two sequences write to the same places of slot ", s.slot);
    all.push_back(s);
  }
  following.finish();
  const Stretch stretch =
      stretch_of({first, last}, m.layers, stream, count * m.hidden, trace, count * trace_width(m), wanted.numel());
  Tensor out = planned.results(wanted.numel(), wants_logits);
  if (count)
    run_forward(m, planned.layers, all, ids, count, cache, stretch, {rows, size_t(wanted.numel())}, wants_logits,
                data<float>(out), kept_seconds(seconds));
  return out;
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def(
      "plan_model(int[] sizes, float[] numbers, Tensor?[] tensors, Tensor[] groups, Tensor[] head_norms,"
      " float[] rows, Tensor[] rotation, Tensor[] inverse) -> Tensor");
  m.def(
      "run_model(Tensor plan, Tensor tokens, Tensor sequences, Tensor(a!) keys, Tensor(b!) values, Tensor wanted,"
      " bool wants_logits, Tensor(c!) seconds, int first, int last, Tensor(d!) stream, Tensor(e!) trace) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("plan_model", TORCH_BOX(&spikeconv::plan_model));
  m.impl("run_model", TORCH_BOX(&spikeconv::run_model));
}
