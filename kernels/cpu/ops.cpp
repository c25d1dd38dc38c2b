// The torch ops of spikeconv/ops/library.py on the CPU, over LibTorch's stable ABI: checks, memory and threads; the
// arithmetic is in the *.inl files.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../common/accumulate.h"
#include "../common/tensors.h"
#include "arrange.h"
#include "dispatch.h"
#include "memory.h"

namespace spikeconv {
namespace {

constexpr int64_t kWorkPerThread = 1 << 17;  // multiplications below which another thread does not pay

Scratch& scratch() {
  static thread_local Scratch memory;
  return memory;
}

Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::Int: return Dtype::int32;
    default: STD_TORCH_CHECK(false, "spikeconv: expected a float32, bfloat16 or float16 tensor");
  }
}

// An uninitialized contiguous tensor. (Much cheaper than the dispatcher's empty, and there are several a call.)
Tensor make(const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= std::max<int64_t>(sizes[d], 1)) strides[d] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

std::vector<int64_t> shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

int32_t dtype_code(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    default: STD_TORCH_CHECK(false, "spikeconv: outputs are float32, bfloat16 or float16");
  }
}

// ---- encode -------------------------------------------------------------------------------------------------------

// Keeps the tensors behind a Transform alive.
struct Rotation {
  Tensors keep;
  std::vector<const float*> bases;
  std::vector<int64_t> orders;
  Transform transform{};

  Rotation(const Tensor& x, const OptionalTensor& signs, const Tensors& matrices, int64_t power) {
    transform.size = x.size(x.dim() - 1);
    transform.factor = 1.0f;
    if (!signs) return;
    const int64_t order = block_order(x, *signs, matrices, power);
    for (const Tensor& matrix : matrices) {
      keep.push_back(beside(x, matrix, ScalarType::Float));
      bases.push_back(data<const float>(keep.back()));
      orders.push_back(matrix.size(0));
    }
    keep.push_back(beside(x, *signs, ScalarType::Float));
    transform.signs = data<const float>(keep.back());
    transform.order = order;
    transform.power = power;
    transform.bases = bases.data();
    transform.base_orders = orders.data();
    transform.base_count = int(bases.size());
    transform.factor = float(1.0 / std::sqrt(double(order)));
  }
};

void run_encode(const EncodeJob& job, int64_t tokens) {
  const int64_t n = job.transform.size, grain = std::max<int64_t>(1, (kWorkPerThread / 16) / std::max<int64_t>(n, 1));
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, tokens, grain, [&](int64_t begin, int64_t end) {
    isa.encode(job, begin, end, static_cast<float*>(scratch().bytes(encode_scratch(n) * 4)));
  });
}

Tensor rotate(const Tensor& x, const Tensor& signs, const Tensors& bases, int64_t power) {
  const Tensor in = floats(x);
  Tensor out = make(shape_of(in), aoti_torch_dtype_float32());
  if (in.numel() == 0) return out;
  const Rotation rotation(in, signs, bases, power);
  EncodeJob job{};
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.transform = rotation.transform;
  job.rotated = data<float>(out);
  run_encode(job, tokens_of(in));
  return out;
}

// x · cos + (-x₂, x₁) · sin for every head of every token; one rounding an operation.
void rotate_heads(const Tensor& x, const Tensor& cos, const Tensor& sin, float* out) {
  const int64_t heads = x.size(1), tokens = x.size(2), dim = x.size(3), half = dim / 2;
  const int64_t position_stride = cos.size(0) == 1 ? 0 : tokens * dim;
  for (int64_t b = 0; b < x.size(0); ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t t = 0; t < tokens; ++t, out += dim) {
        const float* in = data<const float>(x) + b * x.stride(0) + h * x.stride(1) + t * x.stride(2);
        const float* c = data<const float>(cos) + b * position_stride + t * dim;
        const float* s = data<const float>(sin) + b * position_stride + t * dim;
        for (int64_t i = 0; i < half; ++i) {
          out[i] = in[i] * c[i] + -in[i + half] * s[i];
          out[i + half] = in[i + half] * c[i + half] + in[i] * s[i + half];
        }
      }
}

std::tuple<Tensor, Tensor> rotary(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin) {
  for (const Tensor* t : {&q, &k, &cos, &sin})
    STD_TORCH_CHECK(t->scalar_type() == ScalarType::Float, "spikeconv: rotary expects float32 on the CPU");
  const Tensor c = rows_of(cos), s = rows_of(sin);
  Tensor q_out = make(shape_of(q), aoti_torch_dtype_float32()), k_out = make(shape_of(k), aoti_torch_dtype_float32());
  rotate_heads(q.stride(3) == 1 ? q : rows_of(q), c, s, data<float>(q_out));
  rotate_heads(k.stride(3) == 1 ? k : rows_of(k), c, s, data<float>(k_out));
  return {q_out, k_out};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> encode(const Tensor& x, const OptionalTensor& signs, const Tensors& bases,
                                                  int64_t power, const OptionalTensor& norm_weight,
                                                  double norm_epsilon, int64_t count_min, int64_t count_max,
                                                  bool symmetric, double clip_ratio, const std::string& clip,
                                                  double threshold, bool with_statistics) {
  const Tensor in = floats(x);
  const bool wide = count_min < INT8_MIN || count_max > INT8_MAX;
  const std::vector<int64_t> per_token = with_last(in, 1);
  Tensor counts = make(shape_of(in), wide ? aoti_torch_dtype_int16() : aoti_torch_dtype_int8());
  Tensor scale = make(per_token, aoti_torch_dtype_float32());
  Tensor zero = make(per_token, aoti_torch_dtype_int32());
  Tensor statistics = make({with_statistics ? 2 : 0}, aoti_torch_dtype_int64());
  if (with_statistics) data<int64_t>(statistics)[0] = data<int64_t>(statistics)[1] = 0;
  if (in.numel() == 0) return {counts, scale, zero, statistics};
  const Rotation rotation(in, signs, bases, power);
  Tensor gamma;
  EncodeJob job{};
  if (norm_weight) {
    const bool ready = norm_weight->scalar_type() == ScalarType::Float;
    gamma = rows_of(ready ? *norm_weight : torch::stable::to(*norm_weight, ScalarType::Float));
    STD_TORCH_CHECK(gamma.numel() == in.size(in.dim() - 1), "spikeconv: a norm's weight must have the input's size");
    job.norm = {data<const float>(gamma), float(norm_epsilon)};
  }
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.transform = rotation.transform;
  job.range = {float(count_min), float(count_max), symmetric, float(clip_ratio), clip_of(clip), float(threshold)};
  job.counts = counts.data_ptr();
  job.wide = wide;
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

struct Member {  // one weight of a product
  Tensor keep;
  Weight weight;
  Output output;
  int64_t tiles() const { return ceil_div(weight.out_features, kTileOutputs); }
};

Member member(const Tensor& weight, int64_t in_features, int64_t out_features, int64_t bits,
              const std::string& execution) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Byte && bits >= 2 && bits <= 8,
                  "spikeconv: weights are bytes that hold 2 to 8 bits");
  Tensor held = weight;
  if (weight.dim() == 3) held = arrange(weight, in_features, execution == "events" ? "columns" : "tiles");
  const bool columns = held.dim() == 2;
  if (!columns || held.stride(1) != 1) held = rows_of(held);
  const int64_t wanted = arranged_bytes(out_features, in_features, int(bits), columns);
  STD_TORCH_CHECK(held.numel() == wanted, "spikeconv: a weight of ", held.numel(), " bytes where ", out_features, " x ",
                  in_features, " in ", bits, " bits take ", wanted);
  Weight w{data<const uint8_t>(held), columns, columns ? held.stride(0) : 0, int(bits), in_features, out_features};
  return {held, w, Output{}};
}

struct Counts {
  Tensor keep;
  int64_t tokens, in_features;
  bool wide;
  explicit Counts(const Tensor& counts)
      : keep(rows_of(counts)),
        tokens(tokens_of(counts)),
        in_features(counts.size(counts.dim() - 1)),
        wide(counts.scalar_type() == ScalarType::Short) {
    STD_TORCH_CHECK(wide || counts.scalar_type() == ScalarType::Char, "spikeconv: counts must be int8 or int16");
  }
  const void* row(int64_t token) const {
    return data<const int8_t>(keep) + token * in_features * (wide ? 2 : 1);
  }
  int at(int64_t token, int64_t i) const {
    return wide ? static_cast<const int16_t*>(row(token))[i] : static_cast<const int8_t*>(row(token))[i];
  }
};

Output at_token(Output out, int64_t token) {  // the output's rows from `token` on
  out.data = static_cast<char*>(out.data) +
             token * out.stride * (out.dtype == Dtype::float32 || out.dtype == Dtype::int32 ? 4 : 2);
  if (out.zero) out.zero += token;
  if (out.scale) out.scale += token;
  return out;
}

// Every (block of tokens, tile) of all members, shared out among the threads.
void run_dense(const Counts& counts, int64_t largest, const std::vector<Member>& members) {
  const Kernels& isa = kernels();
  const int64_t in = counts.in_features, planes = counts.wide ? 2 : 1;
  // A block's panel should stay in the second-level cache.
  const int64_t fit = std::max<int64_t>(24, (int64_t(384) << 10) / std::max<int64_t>(1, in));
  const int64_t rows = isa.panel_rows;
  const int64_t block = std::max(rows, std::min(kPanelTokens, fit) / rows * rows);
  const int64_t blocks = ceil_div(counts.tokens, block), bytes = panel_bytes(1, in, int(planes));
  static thread_local Scratch panel_memory;
  int8_t* panels = static_cast<int8_t*>(panel_memory.bytes(counts.tokens * (bytes + 4) + 64));
  int32_t* sums = reinterpret_cast<int32_t*>(panels + ceil_div(counts.tokens * bytes, 4) * 4);
  const auto tokens_in = [&](int64_t b) { return std::min(block, counts.tokens - b * block); };
  const int64_t panel_grain = std::max<int64_t>(1, kWorkPerThread / (block * bytes));
  torch::stable::parallel_for(0, blocks, panel_grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      isa.make_panel(counts.row(b * block), counts.wide, in, tokens_in(b), panels + b * block * bytes,
                     sums + b * block);
  });
  int64_t tiles = 0;
  for (const Member& m : members) tiles += m.tiles();
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / (kTileOutputs * bytes * tokens_in(0)));
  torch::stable::parallel_for(0, blocks * tiles, grain, [&](int64_t begin, int64_t end) {
    void* memory = scratch().bytes(kDenseScratch);
    for (int64_t b = begin / tiles; b * tiles < end; ++b) {
      const Panel panel{panels + b * block * bytes, sums + b * block,  tokens_in(b), bytes / planes / kStepInputs,
                        int(planes),                int(counts.wide ? (largest + 1) / 2 : largest)};
      int64_t first = b * tiles;
      for (const Member& m : members) {
        const int64_t low = std::max(begin, first) - first, high = std::min(end - first, m.tiles());
        if (low < high) isa.dense(m.weight, panel, at_token(m.output, b * block), low, high, memory);
        first += m.tiles();
      }
    }
  });
}

constexpr int64_t kEventOutputs = 128;  // outputs are shared out in pieces of this size: a cache line of nibbles

void run_events(const Counts& counts, const std::vector<Member>& members) {
  const Kernels& isa = kernels();
  const int64_t in = counts.in_features;
  std::vector<int32_t> index(static_cast<size_t>(in));
  std::vector<int16_t> fired_counts(static_cast<size_t>(in));
  int64_t pieces = 0;
  for (const Member& m : members) pieces += ceil_div(m.weight.out_features, kEventOutputs);
  for (int64_t token = 0; token < counts.tokens; ++token) {
    int64_t fired = 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < in; ++i) {
      const int k = counts.at(token, i);
      index[size_t(fired)] = int32_t(i);
      fired_counts[size_t(fired)] = int16_t(k);
      fired += k != 0;
      sum += k;
    }
    const int64_t grain = std::max<int64_t>(1, kWorkPerThread / (kEventOutputs * std::max<int64_t>(1, fired)));
    torch::stable::parallel_for(0, pieces, grain, [&](int64_t begin, int64_t end) {
      int64_t first = 0;
      for (const Member& m : members) {
        const int64_t own = ceil_div(m.weight.out_features, kEventOutputs);
        const int64_t low = std::max(begin, first) - first, high = std::min(end - first, own);
        if (low < high) {
          const int64_t from = low * kEventOutputs, to = std::min(m.weight.out_features, high * kEventOutputs);
          int32_t* acc = static_cast<int32_t*>(scratch().bytes((to - from) * 8 + 64));
          void* sums = acc + (to - from + 15) / 16 * 16;
          isa.events(m.weight, index.data(), fired_counts.data(), fired, sum, m.output, token, from, to, acc, sums);
        }
        first += own;
      }
    });
  }
}

// T' steps of ternary spikes, each a product of its own; int32 outputs only.
void run_unfold(const Counts& counts, int64_t largest, const Member& member) {
  Tensor spikes = make(shape_of(counts.keep), aoti_torch_dtype_int8());
  const int64_t n = spikes.numel();
  Tensor step_acc = make({counts.tokens, member.weight.out_features}, aoti_torch_dtype_int32());
  int32_t* total = static_cast<int32_t*>(member.output.data);
  std::fill(total, total + step_acc.numel(), 0);
  Member one = member;
  one.output.data = step_acc.data_ptr();
  for (int64_t step = 0; step < largest; ++step) {
    for (int64_t i = 0; i < n; ++i) data<int8_t>(spikes)[i] = int8_t(unfold(counts.at(0, i), int(step)));
    run_dense(Counts(spikes), 1, {one});
    for (int64_t i = 0; i < step_acc.numel(); ++i) total[i] += data<int32_t>(step_acc)[i];
  }
}

void run(const Counts& counts, int64_t largest, const std::vector<Member>& members, const std::string& execution) {
  if (counts.tokens == 0) return;
  const bool columns = members[0].weight.columns;
  if (execution == "events" || (execution == "auto" && columns && counts.tokens == 1)) {
    STD_TORCH_CHECK(columns, "spikeconv: events need weights in columns");
    run_events(counts, members);
  } else {
    run_dense(counts, largest, members);
  }
}

Tensor accumulate(const Tensor& counts, const Tensor& weight, int64_t out_features, int64_t bits, int64_t largest_count,
                  const std::string& execution) {
  const Counts in(counts);
  Tensor acc = make(with_last(in.keep, out_features), aoti_torch_dtype_int32());
  Member m = member(weight, in.in_features, out_features, bits, execution);
  m.output = Output{acc.data_ptr(), Dtype::int32, out_features, nullptr, nullptr, nullptr, nullptr, nullptr, {}};
  if (execution == "unfold" && in.tokens)
    run_unfold(in, largest_count, m);
  else
    run(in, largest_count, {m}, execution);
  return acc;
}

Tensors linears(const Tensor& counts, const Tensor& scale, const OptionalTensor& zero_point, const Tensors& weights,
                const Tensors& weight_scales, const Tensors& weight_sums, const Tensors& biases, int64_t bits,
                int64_t largest_count, ScalarType dtype, const std::string& execution) {
  STD_TORCH_CHECK(execution != "unfold", "spikeconv: only accumulate unfolds");
  const Counts in(counts);
  const Tensor token_scale = beside(counts, scale, ScalarType::Float);
  Tensor zero;
  if (zero_point) zero = beside(counts, *zero_point, ScalarType::Int);
  STD_TORCH_CHECK(token_scale.numel() == in.tokens && (!zero_point || zero.numel() == in.tokens),
                  "spikeconv: one scale and one zero point per token");
  STD_TORCH_CHECK(weight_scales.size() == weights.size() && (biases.empty() || biases.size() == weights.size()) &&
                      (!zero_point || weight_sums.size() == weights.size()) && !weights.empty(),
                  "spikeconv: every weight needs its scale, and its sum and bias where there are any");
  Tensors outputs, keep;
  std::vector<Member> members;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor weight_scale = beside(counts, weight_scales[i], ScalarType::Float);
    const int64_t out = weight_scale.numel();
    Tensor y = make(with_last(in.keep, out), dtype_code(dtype));
    Member m = member(weights[i], in.in_features, out, bits, execution);
    m.output = Output{y.data_ptr(), dtype_of(y), out, nullptr, nullptr, data<const float>(token_scale),
                      data<const float>(weight_scale), nullptr, {}};
    keep.push_back(weight_scale);
    if (zero_point) {
      const Tensor sum = beside(counts, weight_sums[i], ScalarType::Int);
      STD_TORCH_CHECK(sum.numel() == out, "spikeconv: one sum per output");
      keep.push_back(sum);
      m.output.zero = data<const int32_t>(zero);
      m.output.weight_sum = data<const int32_t>(sum);
    }
    if (!biases.empty()) {
      const Tensor bias = floats(biases[i]);
      STD_TORCH_CHECK(bias.numel() == out, "spikeconv: one bias per output");
      keep.push_back(bias);
      m.output.bias = bias.data_ptr();
      m.output.bias_dtype = dtype_of(bias);
    }
    members.push_back(m);
    outputs.push_back(y);
  }
  run(in, largest_count, members, execution);
  return outputs;
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

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def("use_cpu_kernels(str name) -> str");
  m.def("cpu_kernels() -> str");
  m.def("cpu_peak(int rounds) -> int");
  m.def("cpu_read(Tensor buffer) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CompositeExplicitAutograd, m) {
  m.impl("use_cpu_kernels", TORCH_BOX(&spikeconv::use_cpu_kernels));
  m.impl("cpu_kernels", TORCH_BOX(&spikeconv::cpu_kernels));
  m.impl("cpu_peak", TORCH_BOX(&spikeconv::cpu_peak));
  m.impl("cpu_read", TORCH_BOX(&spikeconv::cpu_read));
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("rotate", TORCH_BOX(&spikeconv::rotate));
  m.impl("encode", TORCH_BOX(&spikeconv::encode));
  m.impl("rotary", TORCH_BOX(&spikeconv::rotary));
  m.impl("arrange", TORCH_BOX(&spikeconv::arrange));
  m.impl("accumulate", TORCH_BOX(&spikeconv::accumulate));
  m.impl("linears", TORCH_BOX(&spikeconv::linears));
  m.impl("quantize_rtn", TORCH_BOX(&spikeconv::quantize_rtn));
}
