// The torch ops of spikeconv/ops/library.py on CUDA, over LibTorch's stable ABI: checks and memory; the arithmetic
// is in the *.cu files. The mirror of cpu/ops.cpp. Those of attention are in ops_attention.cpp.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "binding.h"

namespace spikeconv::cuda {
namespace {

// ---- encode -------------------------------------------------------------------------------------------------------

void run_encode(EncodeJob& job, const Tensor& in, const OnDevice& device) {
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.tokens = tokens_of(in);
  job.size = narrow(in.size(in.dim() - 1));
  Tensor workspace;
  if (const int64_t floats = encode_workspace(job.tokens, job.size)) {
    workspace = torch::stable::new_empty(in, {floats}, ScalarType::Float);
    job.workspace = data<float>(workspace);
  }
  encode(job, device.stream);
}

Tensor rotate(const Tensor& x, const Tensor& signs, const Tensors& bases, int64_t power) {
  const OnDevice device(x);
  const Tensor in = floats(x);
  Tensor out = torch::stable::new_empty(in, in.sizes(), ScalarType::Float);
  if (in.numel() == 0) return out;
  Tensors keep;
  EncodeJob job{};
  job.transform = transform_of(in, signs, bases, power, keep);
  job.rotated = data<float>(out);
  run_encode(job, in, device);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> encode_op(const Tensor& x, const OptionalTensor& signs, const Tensors& bases,
                                                     int64_t power, const OptionalTensor& norm_weight,
                                                     double norm_epsilon, int64_t count_min, int64_t count_max,
                                                     bool symmetric, double clip_ratio, const std::string& clip,
                                                     double threshold, bool with_statistics) {
  const OnDevice device(x);
  const Tensor in = floats(x);
  const bool wide = count_min < INT8_MIN || count_max > INT8_MAX;
  const std::vector<int64_t> per_token = with_last(in, 1);
  Tensor counts = torch::stable::new_empty(in, in.sizes(), wide ? ScalarType::Short : ScalarType::Char);
  Tensor scale = torch::stable::new_empty(in, per_token, ScalarType::Float);
  Tensor zero = torch::stable::new_empty(in, per_token, ScalarType::Int);
  Tensor statistics = torch::stable::new_zeros(in, {with_statistics ? 2 : 0}, ScalarType::Long);
  if (in.numel() == 0) return {counts, scale, zero, statistics};
  Tensors keep;
  EncodeJob job{};
  job.transform = transform_of(in, signs, bases, power, keep);
  if (norm_weight) {
    STD_TORCH_CHECK(norm_weight->numel() == in.size(in.dim() - 1), "spikeconv: a norm weight of another size");
    keep.push_back(beside(in, torch::stable::to(*norm_weight, ScalarType::Float), ScalarType::Float));
    job.norm_weight = data<const float>(keep.back());
    job.norm_epsilon = float(norm_epsilon);
  }
  job.range = {float(count_min), float(count_max), symmetric, float(clip_ratio), clip_of(clip), float(threshold)};
  job.counts = counts.data_ptr();
  job.wide = wide;
  job.scale = data<float>(scale);
  job.zero = data<int32_t>(zero);
  job.statistics = with_statistics ? data<int64_t>(statistics) : nullptr;
  run_encode(job, in, device);
  return {counts, scale, zero, statistics};
}

// ---- accumulate ---------------------------------------------------------------------------------------------------

Tensor arrange_op(const Tensor& packed, int64_t in_features, const std::string& layout) {
  STD_TORCH_CHECK(packed.dim() == 3, "spikeconv: arrange expects a packed weight [out, ceil(in/8), bits]");
  const bool columns = layout == "columns";
  STD_TORCH_CHECK(columns || layout == "tiles", "spikeconv: layout must be tiles or columns");
  const OnDevice device(packed);
  const Tensor rows = beside(packed, packed, ScalarType::Byte);
  const int64_t out = rows.size(0), bits = rows.size(2);
  STD_TORCH_CHECK(rows.size(1) == ceil_div(in_features, kWordInputs) && bits >= 1 && bits <= 8,
                  "spikeconv: a packed weight of another shape than [out, ceil(in/8), bits]");
  Tensor to = torch::stable::new_empty(
      rows, columns ? columns_shape(out, in_features, bits) : tiles_shape(out, in_features, bits));
  if (to.numel())
    arrange(data<const uint8_t>(rows), out, in_features, int(bits), columns, data<uint8_t>(to), device.stream);
  return to;
}

// One weight of a product, in tiles or in columns.
struct Held {
  Tensor keep;
  bool columns;
  Member member{};
};

Held hold(const Tensor& weight, int64_t in_features, int64_t out_features, int64_t bits, bool events) {
  Tensor held = weight.dim() == 3 ? arrange_op(weight, in_features, events ? "columns" : "tiles") : weight;
  const bool columns = held.dim() == 2;
  if (!columns || held.stride(1) != 1) held = rows_of(held);
  if (!columns && reinterpret_cast<uintptr_t>(held.data_ptr()) % kWeightAlignment)
    held = torch::stable::clone(held);  // a view that starts in the middle of a tile row
  const bool nibble = is_nibble(int(bits));
  const int64_t wanted = columns ? in_features * (nibble ? ceil_div(out_features, 2) : out_features)
                                 : ceil_div(out_features, kTileOutputs) * ceil_div(in_features, kWordInputs) *
                                       kStepBytes * (nibble ? 1 : 2);
  STD_TORCH_CHECK(held.numel() == wanted, "spikeconv: a weight of ", held.numel(), " bytes where ", out_features, " x ",
                  in_features, " in ", bits, " bits take ", wanted);
  Held result{held, columns};
  result.member.weight = {data<const uint8_t>(held), columns ? held.stride(0) : 0, int(bits), narrow(in_features),
                          out_features};
  return result;
}

void to_tiles(Held& held, const OnDevice& device) {
  if (!held.columns) return;
  Weight& w = held.member.weight;
  Tensor tiles = torch::stable::new_empty(held.keep, tiles_shape(w.out_features, w.in_features, w.bits));
  if (tiles.numel()) columns_to_tiles(w, data<uint8_t>(tiles), device.stream);
  held.keep = tiles;
  held.columns = false;
  w.data = data<const uint8_t>(tiles);
}

struct Input {
  Tensor keep;
  Counts counts;
  explicit Input(const Tensor& t) : keep(rows_of(t)) {
    const auto type = t.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Short || type == ScalarType::Char, "spikeconv: counts must be int8 or int16");
    counts = {keep.data_ptr(), type == ScalarType::Short, tokens_of(keep), narrow(keep.size(keep.dim() - 1))};
    STD_TORCH_CHECK(counts.tokens <= INT32_MAX / 2, "spikeconv: ", counts.tokens, " tokens are too many at once");
  }
};

struct PanelMemory {
  Tensor data, sums;
  Panel panel;
  PanelMemory(const Input& in, int planes) {
    const int64_t tokens = in.counts.tokens, pitch = panel_pitch(in.counts.in_features);
    data = torch::stable::new_empty(in.keep, {planes, tokens, pitch}, ScalarType::Char);
    sums = torch::stable::new_empty(in.keep, {tokens}, ScalarType::Int);
    panel = {static_cast<int8_t*>(data.data_ptr()), static_cast<int32_t*>(sums.data_ptr()), tokens, pitch, planes};
  }
};

Members members_of(const std::vector<Held>& held, size_t begin) {
  Members members{};
  for (size_t i = begin; i < held.size() && members.count < kMaxMembers; ++i)
    members.member[members.count++] = held[i].member;
  return members;
}

void run_dense(const Input& in, std::vector<Held>& held, const OnDevice& device) {
  for (Held& h : held) to_tiles(h, device);
  if (in.counts.tokens <= kVectorTokens) {
    for (size_t i = 0; i < held.size(); i += kMaxMembers) dense_gemv(members_of(held, i), in.counts, device.stream);
    return;
  }
  const PanelMemory memory(in, in.counts.wide ? 2 : 1);
  make_panel(in.counts, -1, memory.panel, device.stream);
  for (size_t i = 0; i < held.size(); i += kMaxMembers) dense_gemm(members_of(held, i), memory.panel, device.stream);
}

void run_events(const Input& in, std::vector<Held>& held, const OnDevice& device) {
  int64_t outputs = 0;
  for (const Held& h : held) {
    STD_TORCH_CHECK(h.columns, "spikeconv: events need weights in columns");
    outputs += h.member.output.scale ? h.member.weight.out_features : 0;
  }
  // One memory for all members, so that one launch zeroes it. Accumulators that go out are zeroed already.
  const Tensor memory = torch::stable::new_zeros(in.keep, {in.counts.tokens * outputs}, ScalarType::Int);
  int32_t* acc = data<int32_t>(memory);
  for (Held& h : held) {
    Member& m = h.member;
    m.acc = m.output.scale ? acc : static_cast<int32_t*>(m.output.data);
    if (m.output.scale) acc += in.counts.tokens * m.weight.out_features;
  }
  for (size_t i = 0; i < held.size(); i += kMaxMembers) events(members_of(held, i), in.counts, device.stream);
}

// T' steps of ternary spikes, each a product of its own that is added to the zeroed output.
void run_unfold(const Input& in, int64_t largest, std::vector<Held>& held, const OnDevice& device) {
  for (Held& h : held) {
    to_tiles(h, device);
    h.member.output.add = true;
  }
  const PanelMemory memory(in, 1);
  for (int64_t step = 0; step < largest; ++step) {
    make_panel(in.counts, int(step), memory.panel, device.stream);
    dense_gemm(members_of(held, 0), memory.panel, device.stream);
  }
}

// Columns pay for few tokens only; beyond, they are turned into tiles once and used by all tokens.
void run(const Input& in, std::vector<Held>& held, const std::string& execution, const OnDevice& device) {
  if (in.counts.tokens == 0 || held.empty()) return;
  if (execution == "events" || (execution == "auto" && held[0].columns && in.counts.tokens <= kVectorTokens))
    run_events(in, held, device);
  else
    run_dense(in, held, device);
}

Tensor accumulate(const Tensor& counts, const Tensor& weight, int64_t out_features, int64_t bits, int64_t largest_count,
                  const std::string& execution) {
  const OnDevice device(counts);
  const Input in(counts);
  beside(counts, weight, ScalarType::Byte);
  std::vector<Held> held{hold(weight, in.counts.in_features, out_features, bits, execution == "events")};
  Tensor acc = torch::stable::new_zeros(in.keep, with_last(in.keep, out_features), ScalarType::Int);
  if (acc.numel() == 0) return acc;
  held[0].member.output.data = acc.data_ptr();
  held[0].member.output.dtype = Dtype::int32;
  if (execution == "unfold")
    run_unfold(in, largest_count, held, device);
  else
    run(in, held, execution, device);
  return acc;
}

Tensors linears(const Tensor& counts, const Tensor& scale, const OptionalTensor& zero_point, const Tensors& weights,
                const Tensors& weight_scales, const Tensors& weight_sums, const Tensors& biases, int64_t bits,
                int64_t, ScalarType dtype, const std::string& execution) {
  const OnDevice device(counts);
  STD_TORCH_CHECK(execution != "unfold", "spikeconv: only accumulate unfolds");
  const Input in(counts);
  Tensors outputs, keep{beside(counts, scale, ScalarType::Float)};
  const float* token_scale = data<const float>(keep[0]);
  const int32_t* zero = nullptr;
  if (zero_point) {
    keep.push_back(beside(counts, *zero_point, ScalarType::Int));
    zero = data<const int32_t>(keep.back());
  }
  std::vector<Held> held;
  for (size_t i = 0; i < weights.size(); ++i) {
    keep.push_back(beside(counts, weight_scales[i], ScalarType::Float));
    const int64_t out = keep.back().numel();
    Tensor y = torch::stable::new_empty(in.keep, with_last(in.keep, out), dtype);
    beside(counts, weights[i], ScalarType::Byte);
    held.push_back(hold(weights[i], in.counts.in_features, out, bits, execution == "events"));
    Output& output = held.back().member.output;
    output.data = y.data_ptr();
    output.dtype = dtype_of(y);
    output.scale = token_scale;
    output.weight_scale = data<const float>(keep.back());
    if (zero) {
      keep.push_back(beside(counts, weight_sums[i], ScalarType::Int));
      output.zero = zero;
      output.weight_sum = data<const int32_t>(keep.back());
    }
    if (!biases.empty()) {
      keep.push_back(beside(counts, biases[i], biases[i].scalar_type()));
      output.bias = keep.back().data_ptr();
      output.bias_dtype = dtype_of(keep.back());
    }
    outputs.push_back(y);
  }
  run(in, held, execution, device);
  return outputs;
}

}  // namespace
}  // namespace spikeconv::cuda

STABLE_TORCH_LIBRARY_IMPL(SPIKECONV_NAMESPACE, SPIKECONV_KEY, m) {
  m.impl("rotate", TORCH_BOX(&spikeconv::cuda::rotate));
  m.impl("encode", TORCH_BOX(&spikeconv::cuda::encode_op));
  m.impl("arrange", TORCH_BOX(&spikeconv::cuda::arrange_op));
  m.impl("accumulate", TORCH_BOX(&spikeconv::cuda::accumulate));
  m.impl("linears", TORCH_BOX(&spikeconv::cuda::linears));
}
