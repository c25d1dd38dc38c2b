// The torch ops of spikeconv/ops/library.py on the CPU, over LibTorch's stable ABI: checks, memory and threads; the
// arithmetic is in the *.inl files.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "../common/tensors.h"
#include "arrange.h"
#include "dispatch.h"
#include "plan.h"
#include "run.h"
#include "tensors.h"

namespace spikeconv {
namespace {

// ---- encode -------------------------------------------------------------------------------------------------------

// What an encoder knows before its input comes.
EncodeJob encoder(int64_t size, const OptionalTensor& signs, const Tensors& bases, int64_t power,
                  const OptionalTensor& norm_weight, double norm_epsilon, int64_t count_min, int64_t count_max,
                  bool symmetric, double clip_ratio, const std::string& clip, double threshold, Tensors& keep) {
  EncodeJob job{};
  job.transform = transform_of(size, signs, bases, power, keep);
  if (norm_weight) {
    STD_TORCH_CHECK(norm_weight->numel() == size, "spikeconv: a norm's weight must have the input's size");
    keep.push_back(floats(*norm_weight));
    job.norm = {keep.back().data_ptr(), dtype_of(keep.back()), float(norm_epsilon)};
  }
  job.range = {float(count_min), float(count_max), symmetric, float(clip_ratio), clip_of(clip), float(threshold)};
  job.wide = count_min < INT8_MIN || count_max > INT8_MAX;
  return job;
}

Tensor rotate(const Tensor& x, const Tensor& signs, const Tensors& bases, int64_t power) {
  const Tensor in = floats(x);
  Tensor out = make(shape_of(in), aoti_torch_dtype_float32());
  if (in.numel() == 0) return out;
  Tensors keep;
  EncodeJob job{};
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.transform = transform_of(in.size(in.dim() - 1), signs, bases, power, keep);
  job.rotated = data<float>(out);
  run_encode(job, tokens_of(in));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> encode(const Tensor& x, const OptionalTensor& signs, const Tensors& bases,
                                                  int64_t power, const OptionalTensor& norm_weight,
                                                  double norm_epsilon, int64_t count_min, int64_t count_max,
                                                  bool symmetric, double clip_ratio, const std::string& clip,
                                                  double threshold, bool with_statistics) {
  const Tensor in = floats(x);
  Tensors keep;
  EncodeJob job = encoder(in.size(in.dim() - 1), signs, bases, power, norm_weight, norm_epsilon, count_min, count_max,
                          symmetric, clip_ratio, clip, threshold, keep);
  const std::vector<int64_t> per_token = with_last(in, 1);
  Tensor counts = make(shape_of(in), job.wide ? aoti_torch_dtype_int16() : aoti_torch_dtype_int8());
  Tensor scale = make(per_token, aoti_torch_dtype_float32());
  Tensor zero = make(per_token, aoti_torch_dtype_int32());
  Tensor statistics = make({with_statistics ? 2 : 0}, aoti_torch_dtype_int64());
  if (with_statistics) data<int64_t>(statistics)[0] = data<int64_t>(statistics)[1] = 0;
  if (in.numel() == 0) return {counts, scale, zero, statistics};
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.counts = counts.data_ptr();
  job.scale = data<float>(scale);
  job.zero = data<int32_t>(zero);
  job.statistics = with_statistics ? data<int64_t>(statistics) : nullptr;
  run_encode(job, tokens_of(in));
  return {counts, scale, zero, statistics};
}

// ---- accumulate ---------------------------------------------------------------------------------------------------

Tensor arrange(const Tensor& packed, int64_t in_features, const std::string& layout) {
  STD_TORCH_CHECK(packed.dim() == 3 && packed.scalar_type() == ScalarType::Byte && packed.size(2) >= 2 &&
                      packed.size(2) <= 8 && packed.size(1) == ceil_div(in_features, kWordInputs),
                  "spikeconv: arrange expects a packed weight [out, ceil(in/8), bits] of bytes");
  const bool columns = layout == "columns";
  STD_TORCH_CHECK(columns || layout == "tiles", "spikeconv: layout must be tiles or columns");
  const Tensor rows = rows_of(packed);
  const int64_t out = rows.size(0), bits = rows.size(2);
  Tensor to = torch::stable::new_zeros(
      rows, columns ? columns_shape(out, in_features, bits) : tiles_shape(out, in_features, bits));
  // Units of two tiles: two rows share a byte of a column.
  torch::stable::parallel_for(0, ceil_div(out, 2 * kTileOutputs), 1, [&](int64_t begin, int64_t end) {
    arrange_rows(data<const uint8_t>(rows), out, in_features, int(bits), columns, begin * 2 * kTileOutputs,
            std::min(out, end * 2 * kTileOutputs), data<uint8_t>(to));
  });
  return to;
}

Counts counts_of(const Tensor& counts) {
  const bool wide = counts.scalar_type() == ScalarType::Short;
  STD_TORCH_CHECK(wide || counts.scalar_type() == ScalarType::Char, "spikeconv: counts must be int8 or int16");
  return {counts.data_ptr(), tokens_of(counts), counts.size(counts.dim() - 1), wide};
}

Execution execution_of(const std::string& name) {
  if (name == "auto") return Execution::automatic;
  if (name == "dense") return Execution::dense;
  STD_TORCH_CHECK(name == "events", "spikeconv: execution must be auto, dense or events; only accumulate unfolds");
  return Execution::events;
}

Weight weight_of(const Tensor& weight, int64_t in_features, int64_t out_features, int64_t bits, bool events,
                 Tensors& keep) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Byte && bits >= 2 && bits <= 8,
                  "spikeconv: weights are bytes that hold 2 to 8 bits");
  Tensor held = weight.dim() == 3 ? arrange(weight, in_features, events ? "columns" : "tiles") : weight;
  const bool columns = held.dim() == 2;
  if (!columns || held.stride(1) != 1) held = rows_of(held);
  STD_TORCH_CHECK(columns || !events, "spikeconv: events need weights in columns");
  const int64_t wanted = arranged_bytes(out_features, in_features, int(bits), columns);
  STD_TORCH_CHECK(held.numel() == wanted, "spikeconv: a weight of ", held.numel(), " bytes where ", out_features, " x ",
                  in_features, " in ", bits, " bits take ", wanted);
  keep.push_back(held);
  return {data<const uint8_t>(held), columns, columns ? held.stride(0) : 0, int(bits), in_features, out_features};
}

Tensor accumulate(const Tensor& counts, const Tensor& weight, int64_t out_features, int64_t bits, int64_t largest_count,
                  const std::string& execution) {
  const Tensor held = rows_of(counts);
  const Counts in = counts_of(held);
  const bool unfolds = execution == "unfold";
  const Execution how = unfolds ? Execution::dense : execution_of(execution);
  Tensor acc = make(with_last(held, out_features), aoti_torch_dtype_int32());
  Tensors keep;
  Member m{weight_of(weight, in.in_features, out_features, bits, how == Execution::events, keep), {}};
  if (unfolds) {
    run_unfold(in, largest_count, m.weight, data<int32_t>(acc));
  } else {
    m.output = {acc.data_ptr(), Dtype::int32, out_features, nullptr, nullptr, nullptr, nullptr, nullptr, {}};
    run_products(in, largest_count, {&m, 1}, how);
  }
  return acc;
}

// What linears with one input know before their counts come: all but where outputs, scales and zero points lie.
std::vector<Member> members_of(int64_t in_features, const Tensors& weights, const Tensors& weight_scales,
                               const Tensors& weight_sums, const Tensors& biases, int64_t bits, Execution execution,
                               Tensors& keep) {
  STD_TORCH_CHECK(!weights.empty() && weight_scales.size() == weights.size() &&
                      (biases.empty() || biases.size() == weights.size()) &&
                      (weight_sums.empty() || weight_sums.size() == weights.size()),
                  "spikeconv: every weight needs its scale, and its sum and bias where there are any");
  std::vector<Member> members;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t out = weight_scales[i].numel();
    Member m{weight_of(weights[i], in_features, out, bits, execution == Execution::events, keep), {}};
    keep.push_back(beside(weights[i], weight_scales[i], ScalarType::Float));
    m.output.weight_scale = data<const float>(keep.back());
    m.output.stride = out;
    if (!weight_sums.empty()) {
      STD_TORCH_CHECK(weight_sums[i].numel() == out, "spikeconv: one sum per output");
      keep.push_back(beside(weights[i], weight_sums[i], ScalarType::Int));
      m.output.weight_sum = data<const int32_t>(keep.back());
    }
    if (!biases.empty()) {
      STD_TORCH_CHECK(biases[i].numel() == out, "spikeconv: one bias per output");
      keep.push_back(floats(biases[i]));
      m.output.bias = keep.back().data_ptr();
      m.output.bias_dtype = dtype_of(keep.back());
    }
    members.push_back(m);
  }
  return members;
}

Tensors linears(const Tensor& counts, const Tensor& scale, const OptionalTensor& zero_point, const Tensors& weights,
                const Tensors& weight_scales, const Tensors& weight_sums, const Tensors& biases, int64_t bits,
                int64_t largest_count, ScalarType dtype, const std::string& execution) {
  const Tensor held = rows_of(counts), token_scale = beside(counts, scale, ScalarType::Float);
  const Counts in = counts_of(held);
  Tensor zero;
  if (zero_point) zero = beside(counts, *zero_point, ScalarType::Int);
  STD_TORCH_CHECK(token_scale.numel() == in.tokens && (!zero_point || zero.numel() == in.tokens),
                  "spikeconv: one scale and one zero point per token");
  STD_TORCH_CHECK(zero_point.has_value() != weight_sums.empty(), "spikeconv: zero points and sums come together");
  const Execution how = execution_of(execution);
  Tensors keep;
  std::vector<Member> members =
      members_of(in.in_features, weights, weight_scales, weight_sums, biases, bits, how, keep);
  const Tensors outputs = make_outputs(held, dtype, data<const float>(token_scale),
                                       zero_point ? data<const int32_t>(zero) : nullptr, members);
  run_products(in, largest_count, members, how);
  return outputs;
}

Tensor plan_group(int64_t in_features, const OptionalTensor& signs, const Tensors& bases, int64_t power,
                  const OptionalTensor& norm_weight, double norm_epsilon, int64_t count_min, int64_t count_max,
                  bool symmetric, double clip_ratio, const std::string& clip, double threshold,
                  const Tensors& weights, const Tensors& weight_scales, const Tensors& weight_sums,
                  const Tensors& biases, int64_t bits, int64_t largest_count, const std::string& execution) {
  GroupPlan plan{};
  Tensors keep;
  plan.job = encoder(in_features, signs, bases, power, norm_weight, norm_epsilon, count_min, count_max, symmetric,
                     clip_ratio, clip, threshold, keep);
  plan.largest = largest_count;
  plan.execution = execution_of(execution);
  STD_TORCH_CHECK(symmetric == weight_sums.empty(), "spikeconv: zero points and sums come together");
  const std::vector<Member> members =
      members_of(in_features, weights, weight_scales, weight_sums, biases, bits, plan.execution, keep);
  STD_TORCH_CHECK(int64_t(members.size()) <= GroupPlan::kMostMembers, "spikeconv: a plan takes at most ",
                  GroupPlan::kMostMembers, " linears");
  plan.member_count = int64_t(members.size());
  std::copy(members.begin(), members.end(), plan.members);
  // Whatever was copied on the way would be gone when the plan runs.
  std::vector<const void*> given;
  for (const Tensors* list : {&bases, &weights, &weight_scales, &weight_sums, &biases})
    for (const Tensor& t : *list) given.push_back(t.data_ptr());
  for (const OptionalTensor* t : {&signs, &norm_weight})
    if (*t) given.push_back((*t)->data_ptr());
  for (const Tensor& t : keep)
    STD_TORCH_CHECK(std::find(given.begin(), given.end(), t.data_ptr()) != given.end(),
                    "spikeconv: a plan takes arranged weights and contiguous tensors");
  Tensor bytes = make({int64_t(sizeof(GroupPlan))}, aoti_torch_dtype_uint8());
  std::memcpy(bytes.data_ptr(), &plan, sizeof(plan));
  return bytes;
}

// ---- weights ------------------------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor, Tensor, Tensor> quantize_rtn(const Tensor& weight, int64_t bits, bool search_clip) {
  const bool ready = weight.scalar_type() == ScalarType::Float;
  const Tensor in = rows_of(ready ? weight : torch::stable::to(weight, ScalarType::Float));
  const int64_t rows = in.size(0), columns = in.size(1);
  Tensor packed = make({rows, ceil_div(columns, kWordInputs), bits}, aoti_torch_dtype_uint8());
  Tensor scale = make({rows}, aoti_torch_dtype_float32());
  Tensor sum = make({rows}, aoti_torch_dtype_int32());
  Tensor error = make({rows}, aoti_torch_dtype_float64());
  const RtnJob job{data<const float>(in), columns,          int(bits),           search_clip,
                   data<uint8_t>(packed), data<float>(scale), data<int32_t>(sum), data<double>(error)};
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)),
                              [&](int64_t begin, int64_t end) {
                                void* memory = scratch().bytes((2 * columns + 64) * 4);
                                isa.rtn(job, begin, end, static_cast<float*>(memory));
                              });
  return {packed, scale, sum, error};
}

// ---- which kernels ------------------------------------------------------------------------------------------------

std::string use_cpu_kernels(const std::string& name) {
  use_kernels(name);
  return kernels().name;
}

std::string cpu_kernels() {
  std::string names;
  for (const Kernels* k : available_kernels()) names += (names.empty() ? "" : " ") + std::string(k->name);
  return names;
}

// Multiplications done by all threads in `rounds` rounds of product instructions on registers.
int64_t cpu_peak(int64_t rounds) {
  const int64_t threads = torch::stable::get_num_threads();
  std::vector<int64_t> done(static_cast<size_t>(threads));
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) done[size_t(t)] = kernels().peak(rounds);
  });
  return std::accumulate(done.begin(), done.end(), int64_t{0});
}

// Reads a tensor once, each thread its part.
int64_t cpu_read(const Tensor& buffer) {
  const int64_t bytes = buffer.numel();
  torch::stable::parallel_for(0, bytes, 1 << 16, [&](int64_t begin, int64_t end) {
    kernels().read(data<const uint8_t>(buffer) + begin, end - begin);
  });
  return bytes;
}

// Asks for large pages where the buffer is not in use yet; whether the system agreed.
bool cpu_large_pages(const Tensor& buffer) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), begin = uintptr_t(buffer.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + uintptr_t(buffer.numel())) / page * page;
  return last > first && madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE) == 0;
#else
  (void)buffer;
  return false;
#endif
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def("use_cpu_kernels(str name) -> str");
  m.def("cpu_kernels() -> str");
  m.def("cpu_peak(int rounds) -> int");
  m.def("cpu_read(Tensor buffer) -> int");
  m.def("cpu_large_pages(Tensor buffer) -> bool");
  m.def(
      "plan_group(int in_features, Tensor? signs, Tensor[] bases, int power, Tensor? norm_weight, float norm_epsilon,"
      " int count_min, int count_max, bool symmetric, float clip_ratio, str clip, float threshold, Tensor[] weights,"
      " Tensor[] weight_scales, Tensor[] weight_sums, Tensor[] biases, int bits, int largest_count, str execution)"
      " -> Tensor");
  m.def("run_group(Tensor x, Tensor plan) -> Tensor[]");
  m.def(
      "decode_layer(Tensor x, Tensor cos, Tensor sin, Tensor keys, Tensor values, Tensor qkv_plan, Tensor output_plan,"
      " Tensor gate_up_plan, Tensor down_plan, float scaling) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CompositeExplicitAutograd, m) {
  m.impl("use_cpu_kernels", TORCH_BOX(&spikeconv::use_cpu_kernels));
  m.impl("cpu_kernels", TORCH_BOX(&spikeconv::cpu_kernels));
  m.impl("cpu_peak", TORCH_BOX(&spikeconv::cpu_peak));
  m.impl("cpu_read", TORCH_BOX(&spikeconv::cpu_read));
  m.impl("cpu_large_pages", TORCH_BOX(&spikeconv::cpu_large_pages));
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("rotate", TORCH_BOX(&spikeconv::rotate));
  m.impl("encode", TORCH_BOX(&spikeconv::encode));
  m.impl("arrange", TORCH_BOX(&spikeconv::arrange));
  m.impl("accumulate", TORCH_BOX(&spikeconv::accumulate));
  m.impl("linears", TORCH_BOX(&spikeconv::linears));
  m.impl("quantize_rtn", TORCH_BOX(&spikeconv::quantize_rtn));
  m.impl("plan_group", TORCH_BOX(&spikeconv::plan_group));
  m.impl("run_group", TORCH_BOX(&spikeconv::run_group));
  m.impl("decode_layer", TORCH_BOX(&spikeconv::decode_layer));
}
