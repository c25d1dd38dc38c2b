// The torch ops of spikeconv/ops/library.py on CUDA, over LibTorch's stable ABI: checks and memory; the arithmetic
// is in the *.cu files. The mirror of cpu/ops.cpp. Those of attention are in ops_attention.cpp.
#include <torch/csrc/stable/library.h>

#include <algorithm>
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

Tensor rotate(const Tensor& x, const Tensors& rotation) {
  STD_TORCH_CHECK(!rotation.empty(), "spikeconv: a rotation needs its signs");
  const OnDevice device(x);
  const Tensor in = floats(x);
  Tensor out = torch::stable::new_empty(in, in.sizes(), ScalarType::Float);
  if (in.numel() == 0) return out;
  Tensors keep;
  EncodeJob job{};
  job.transform = transform_of(in, rotation, keep);
  job.rotated = data<float>(out);
  run_encode(job, in, device);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> encode_op(const Tensor& x, const Tensors& rotation,
                                                     const OptionalTensor& norm_weight,
                                                     const OptionalTensor& threshold,
                                                     const std::vector<double>& table, bool histogram) {
  const OnDevice device(x);
  const Tensor in = floats(x);
  const EncodeSettings settings = EncodeSettings::from_table(table);
  Tensors keep;
  EncodeJob job{};
  job.range = settings.range;
  job.threshold = threshold_of(in, threshold, settings.range.clip, keep);
  job.wide = settings.wide();
  const std::vector<int64_t> per_token = with_last(in, 1);
  Tensor counts = torch::stable::new_empty(in, in.sizes(), job.wide ? ScalarType::Short : ScalarType::Char);
  Tensor scale = torch::stable::new_empty(in, per_token, ScalarType::Float);
  Tensor zero = torch::stable::new_empty(in, per_token, ScalarType::Int);
  Tensor bins = make_histogram(in, histogram, settings.bins(), settings.range.min, job.histogram);
  if (in.numel() == 0) return {counts, scale, zero, bins};
  job.transform = transform_of(in, rotation, keep);
  if (norm_weight) {
    STD_TORCH_CHECK(norm_weight->numel() == in.size(in.dim() - 1), "spikeconv: a norm weight of another size");
    keep.push_back(beside(in, torch::stable::to(*norm_weight, ScalarType::Float), ScalarType::Float));
    job.norm_weight = data<const float>(keep.back());
    job.norm_epsilon = settings.norm_epsilon;
  }
  job.counts = counts.data_ptr();
  job.scale = data<float>(scale);
  job.zero = data<int32_t>(zero);
  run_encode(job, in, device);
  return {counts, scale, zero, bins};
}

// ---- accumulate ---------------------------------------------------------------------------------------------------

Tensor arrange_op(const Tensor& packed, int64_t in_features, const std::string& layout) {
  STD_TORCH_CHECK(packed.dim() == 3, "spikeconv: arrange expects a packed weight [out, ceil(in/8), bits]");
  const bool columns = layout == "columns";
  STD_TORCH_CHECK(columns || layout == "tiles", "spikeconv: layout must be tiles or columns");
  const OnDevice device(packed);
  const Tensor rows = beside(packed, packed, ScalarType::Byte);
  const int64_t out = rows.size(0), bits = rows.size(2);
  STD_TORCH_CHECK(rows.size(1) == ceil_div(in_features, kWordInputs) && bits >= 2 && bits <= 8,
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
  make_panel(in.counts, {}, memory.panel, device.stream);
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

// Slot by slot of a temporal code, each a product of its own with ternary spikes that goes to the zeroed output. With
// a current that stays, every slot begins with the current of the one before, and the membrane is the sum of them all.
void run_unfold(const Input& in, const ProductSettings& settings, const Tensor& digits, std::vector<Held>& held,
                Tensor& acc, const OnDevice& device) {
  const bool ramp = settings.membrane == Membrane::ramp;
  const int64_t slots = digits.size(0);
  to_tiles(held[0], device);
  Output& output = held[0].member.output;
  output.keep = settings.membrane == Membrane::doubled ? 2 : 1;
  Tensor currents;
  if (ramp) currents = torch::stable::new_zeros(acc, std::vector<int64_t>{slots, acc.numel()});
  const PanelMemory memory(in, 1);
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (ramp) {
      Tensor current = torch::stable::select(currents, 0, slot);
      if (slot) torch::stable::copy_(current, torch::stable::select(currents, 0, slot - 1));
      output.data = current.data_ptr();
    }
    const Slot of_code{data<const int8_t>(digits) + slot * digits.size(1), settings.largest};
    make_panel(in.counts, of_code, memory.panel, device.stream);
    dense_gemm(members_of(held, 0), memory.panel, device.stream);
  }
  if (ramp) {
    const int64_t first[] = {0};
    const Tensor sum = torch::stable::sum(currents, {{first, 1}}, false, ScalarType::Int);
    torch::stable::copy_(acc, torch::stable::view(sum, acc.sizes()));
  }
}

// Columns pay for few tokens only; beyond, they are turned into tiles once and used by all tokens.
void run(const Input& in, std::vector<Held>& held, Execution execution, const OnDevice& device) {
  if (in.counts.tokens == 0 || held.empty()) return;
  const bool few = execution == Execution::automatic && in.counts.tokens <= kVectorTokens;
  const auto columns = [](const Held& h) { return h.columns; };
  if (execution == Execution::events || (few && std::all_of(held.begin(), held.end(), columns)))
    run_events(in, held, device);
  else
    run_dense(in, held, device);
}

Tensor accumulate(const Tensor& counts, const Tensor& weight, const OptionalTensor& digits, int64_t out_features,
                  const std::vector<double>& table) {
  const OnDevice device(counts);
  const Input in(counts);
  const ProductSettings settings = ProductSettings::from_table(table, in.counts.in_features);
  beside(counts, weight, ScalarType::Byte);
  const bool events = settings.execution == Execution::events;
  std::vector<Held> held{hold(weight, in.counts.in_features, out_features, settings.bits, events)};
  Tensor acc = torch::stable::new_zeros(in.keep, with_last(in.keep, out_features), ScalarType::Int);
  held[0].member.output.data = acc.data_ptr();
  held[0].member.output.dtype = Dtype::int32;
  if (settings.execution == Execution::unfold) {
    const Tensor code = digits_of(counts, digits, settings.largest);
    if (acc.numel()) run_unfold(in, settings, code, held, acc, device);
  } else if (acc.numel()) {
    run(in, held, settings.execution, device);
  }
  return acc;
}

Tensors linears(const Tensor& counts, const Tensor& scale, const OptionalTensor& zero_point,
                const std::vector<OptionalTensor>& operands, const std::vector<double>& table, ScalarType dtype) {
  const OnDevice device(counts);
  const Input in(counts);
  const ProductSettings settings = ProductSettings::from_table(table, in.counts.in_features);
  STD_TORCH_CHECK(settings.execution != Execution::unfold, "spikeconv: only accumulate unfolds");
  Tensors outputs, keep{beside(counts, scale, ScalarType::Float)};
  const float* token_scale = data<const float>(keep[0]);
  const int32_t* zero = nullptr;
  if (zero_point) {
    keep.push_back(beside(counts, *zero_point, ScalarType::Int));
    zero = data<const int32_t>(keep.back());
    STD_TORCH_CHECK(keep.back().numel() == in.counts.tokens, "spikeconv: one zero point per token");
  }
  STD_TORCH_CHECK(keep[0].numel() == in.counts.tokens, "spikeconv: one scale per token");
  std::vector<Held> held;
  for (const Operands& linear : operands_of(operands, zero != nullptr)) {
    keep.push_back(beside(counts, linear.scale, ScalarType::Float));
    Tensor y = torch::stable::new_empty(in.keep, with_last(in.keep, linear.out_features), dtype);
    beside(counts, linear.weight, ScalarType::Byte);
    const bool events = settings.execution == Execution::events;
    held.push_back(hold(linear.weight, in.counts.in_features, linear.out_features, settings.bits, events));
    Output& output = held.back().member.output;
    output.data = y.data_ptr();
    output.dtype = dtype_of(y);
    output.scale = token_scale;
    output.weight_scale = data<const float>(keep.back());
    if (zero) {
      keep.push_back(beside(counts, *linear.sum, ScalarType::Int));
      output.zero = zero;
      output.weight_sum = data<const int32_t>(keep.back());
    }
    if (linear.bias) {
      keep.push_back(beside(counts, *linear.bias, linear.bias->scalar_type()));
      output.bias = keep.back().data_ptr();
      output.bias_dtype = dtype_of(keep.back());
    }
    outputs.push_back(y);
  }
  run(in, held, settings.execution, device);
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
