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
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "../common/tensors.h"
#include "arrange.h"
#include "dispatch.h"
#include "parallel.h"
#include "plan.h"
#include "run.h"
#include "tensors.h"

namespace spikeconv {
namespace {

// ---- encode -------------------------------------------------------------------------------------------------------

// What an encoder knows before its input comes.
EncodeJob encoder(const Tensor& like, int64_t size, const Tensors& rotation, const OptionalTensor& norm_weight,
                  const OptionalTensor& threshold, const EncodeSettings& settings, Tensors& keep) {
  EncodeJob job{};
  job.transform = transform_of(size, rotation, keep);
  if (norm_weight) {
    STD_TORCH_CHECK(norm_weight->numel() == size, "spikeconv: a norm's weight must have the input's size");
    keep.push_back(floats(*norm_weight));
    job.norm = {keep.back().data_ptr(), dtype_of(keep.back()), settings.norm_epsilon};
  }
  job.range = settings.range;
  job.threshold = threshold_of(like, threshold, settings.range.clip, keep);
  job.wide = settings.wide();
  return job;
}

Tensor rotate(const Tensor& x, const Tensors& rotation) {
  STD_TORCH_CHECK(!rotation.empty(), "spikeconv: a rotation needs its signs");
  const Tensor in = floats(x);
  Tensor out = make(shape_of(in), aoti_torch_dtype_float32());
  if (in.numel() == 0) return out;
  Tensors keep;
  EncodeJob job{};
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.transform = transform_of(in.size(in.dim() - 1), rotation, keep);
  job.rotated = data<float>(out);
  run_encode(job, tokens_of(in));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> encode(const Tensor& x, const Tensors& rotation,
                                                  const OptionalTensor& norm_weight, const OptionalTensor& threshold,
                                                  const std::vector<double>& table, bool histogram) {
  const Tensor in = floats(x);
  const EncodeSettings settings = EncodeSettings::from_table(table);
  Tensors keep;
  EncodeJob job = encoder(in, in.size(in.dim() - 1), rotation, norm_weight, threshold, settings, keep);
  const std::vector<int64_t> per_token = with_last(in, 1);
  Tensor counts = make(shape_of(in), job.wide ? aoti_torch_dtype_int16() : aoti_torch_dtype_int8());
  Tensor scale = make(per_token, aoti_torch_dtype_float32());
  Tensor zero = make(per_token, aoti_torch_dtype_int32());
  Tensor bins = make_histogram(histogram, settings.bins(), settings.range.min, job.histogram);
  if (in.numel() == 0) return {counts, scale, zero, bins};
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.counts = counts.data_ptr();
  job.scale = data<float>(scale);
  job.zero = data<int32_t>(zero);
  run_encode(job, tokens_of(in));
  return {counts, scale, zero, bins};
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
  share(0, ceil_div(out, 2 * kTileOutputs), 1, [&](int64_t begin, int64_t end) {
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

Weight weight_of(const Tensor& weight, int64_t in_features, int64_t out_features, int64_t bits, bool events,
                 Tensors& keep) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Byte, "spikeconv: weights are bytes");
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

Tensor accumulate(const Tensor& counts, const Tensor& weight, const OptionalTensor& digits, int64_t out_features,
                  const std::vector<double>& table) {
  const Tensor held = rows_of(counts);
  const Counts in = counts_of(held);
  const ProductSettings settings = ProductSettings::from_table(table, in.in_features);
  Tensor acc = make(with_last(held, out_features), aoti_torch_dtype_int32());
  Tensors keep;
  const bool events = settings.execution == Execution::events;
  Member m{weight_of(weight, in.in_features, out_features, settings.bits, events, keep), {}};
  if (settings.execution == Execution::unfold) {
    const Tensor code = digits_of(held, digits, settings.largest);
    run_unfold(in, settings, data<const int8_t>(code), code.size(0), m.weight, data<int32_t>(acc));
  } else {
    m.output = {acc.data_ptr(), Dtype::int32, out_features, nullptr, nullptr, nullptr, nullptr, nullptr, {}};
    run_products(in, settings, {&m, 1});
  }
  return acc;
}

// Sums that no weight has would overflow the accumulators.
void check_sums(const int32_t* sums, int64_t count, int64_t largest) {
  int32_t low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) low = std::min(low, sums[i]), high = std::max(high, sums[i]);
  STD_TORCH_CHECK(high <= largest && -int64_t(low) <= largest,
                  "spikeconv: a weight's row adds up to more than its integers can (", largest,
                  "): its sums are not those of the weight; convert the model again");
}

// What linears with one input know before their counts come: all but where outputs, scales and zero points lie.
std::vector<Member> members_of(int64_t in_features, const std::vector<OptionalTensor>& operands, bool zero_point,
                               const ProductSettings& settings, Tensors& keep) {
  STD_TORCH_CHECK(settings.execution != Execution::unfold, "spikeconv: only accumulate unfolds");
  const bool events = settings.execution == Execution::events;
  std::vector<Member> members;
  for (const Operands& linear : operands_of(operands, zero_point)) {
    Member m{weight_of(linear.weight, in_features, linear.out_features, settings.bits, events, keep), {}};
    keep.push_back(beside(linear.weight, linear.scale, ScalarType::Float));
    m.output.weight_scale = data<const float>(keep.back());
    m.output.stride = linear.out_features;
    if (linear.sum) {
      keep.push_back(beside(linear.weight, *linear.sum, ScalarType::Int));
      m.output.weight_sum = data<const int32_t>(keep.back());
      check_sums(m.output.weight_sum, linear.out_features, settings.largest_sum(in_features));
    }
    if (linear.bias) {
      keep.push_back(floats(*linear.bias));
      m.output.bias = keep.back().data_ptr();
      m.output.bias_dtype = dtype_of(keep.back());
    }
    members.push_back(m);
  }
  return members;
}

Tensors linears(const Tensor& counts, const Tensor& scale, const OptionalTensor& zero_point,
                const std::vector<OptionalTensor>& operands, const std::vector<double>& table, ScalarType dtype) {
  const Tensor held = rows_of(counts), token_scale = beside(counts, scale, ScalarType::Float);
  const Counts in = counts_of(held);
  const ProductSettings settings = ProductSettings::from_table(table, in.in_features);
  Tensor zero;
  if (zero_point) zero = beside(counts, *zero_point, ScalarType::Int);
  STD_TORCH_CHECK(token_scale.numel() == in.tokens && (!zero_point || zero.numel() == in.tokens),
                  "spikeconv: one scale and one zero point per token");
  Tensors keep;
  std::vector<Member> members = members_of(in.in_features, operands, zero_point.has_value(), settings, keep);
  const Tensors outputs = make_outputs(held, dtype, data<const float>(token_scale),
                                       zero_point ? data<const int32_t>(zero) : nullptr, members);
  run_products(in, settings, members);
  return outputs;
}

Tensor plan_group(int64_t in_features, const Tensors& rotation, const OptionalTensor& norm_weight,
                  const OptionalTensor& threshold, const std::vector<double>& encode_table,
                  const std::vector<OptionalTensor>& operands, const std::vector<double>& product_table) {
  const EncodeSettings settings = EncodeSettings::from_table(encode_table);
  GroupPlan plan{};
  Tensors keep;
  plan.products = ProductSettings::from_table(product_table, in_features);
  const std::vector<Member> members =
      members_of(in_features, operands, !settings.range.symmetric, plan.products, keep);
  plan.job = encoder(*operands[0], in_features, rotation, norm_weight, threshold, settings, keep);
  STD_TORCH_CHECK(int64_t(members.size()) <= GroupPlan::kMostMembers, "spikeconv: a plan takes at most ",
                  GroupPlan::kMostMembers, " linears");
  plan.member_count = int64_t(members.size());
  std::copy(members.begin(), members.end(), plan.members);
  // Whatever was copied on the way would be gone when the plan runs.
  std::vector<const void*> given;
  for (const Tensor& t : rotation) given.push_back(t.data_ptr());
  for (const OptionalTensor& t : operands)
    if (t) given.push_back(t->data_ptr());
  for (const OptionalTensor* t : {&norm_weight, &threshold})
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
  share(0, rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)),
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

// Tells the system something about the whole pages of a tensor; whether it agreed.
bool advise(const Tensor& bytes, int advice) {
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), begin = uintptr_t(bytes.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + uintptr_t(bytes.numel())) / page * page;
  return last > first && madvise(reinterpret_cast<void*>(first), last - first, advice) == 0;
}

// Asks for large pages where the buffer is not in use yet.
bool cpu_large_pages(const Tensor& buffer) {
#if defined(MADV_HUGEPAGE)
  return advise(buffer, MADV_HUGEPAGE);
#else
  (void)buffer;
  return false;
#endif
}

// Gives back the pages of a tensor in a mapped file; whoever looks again reads the file. Of any other memory the
// contents would be lost.
bool cpu_let_go(const Tensor& mapped) { return advise(mapped, MADV_DONTNEED); }

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def("use_cpu_kernels(str name) -> str");
  m.def("cpu_kernels() -> str");
  m.def("cpu_large_pages(Tensor buffer) -> bool");
  m.def("cpu_let_go(Tensor mapped) -> bool");
  m.def(
      "plan_group(int in_features, Tensor[] rotation, Tensor? norm_weight, Tensor? threshold, float[] encode,"
      " Tensor?[] operands, float[] products) -> Tensor");
  m.def("run_group(Tensor x, Tensor plan) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CompositeExplicitAutograd, m) {
  m.impl("use_cpu_kernels", TORCH_BOX(&spikeconv::use_cpu_kernels));
  m.impl("cpu_kernels", TORCH_BOX(&spikeconv::cpu_kernels));
  m.impl("cpu_large_pages", TORCH_BOX(&spikeconv::cpu_large_pages));
  m.impl("cpu_let_go", TORCH_BOX(&spikeconv::cpu_let_go));
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
}
