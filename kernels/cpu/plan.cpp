#include "plan.h"

#include <array>
#include <cstring>
#include <optional>

namespace spikeconv {
namespace {

template <class F>
Tensor elementwise(const Tensor& a, const Tensor& b, F f) {
  Tensor out = make(shape_of(a), aoti_torch_dtype_float32());
  const float *x = data<const float>(a), *y = data<const float>(b);
  float* to = data<float>(out);
  for (int64_t i = 0, n = a.numel(); i < n; ++i) to[i] = f(x[i], y[i]);
  return out;
}

Tensor add(const Tensor& a, const Tensor& b) {
  return elementwise(a, b, [](float x, float y) { return x + y; });
}

Tensor multiply(const Tensor& a, const Tensor& b) {
  return elementwise(a, b, [](float x, float y) { return x * y; });
}

Tensor silu(const Tensor& x) {
  std::array stack{torch::stable::detail::from(x)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::silu", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// torch's attention of one query [batch, heads, 1, head_dim], contiguous.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, double scaling) {
  using torch::stable::detail::from;
  std::array stack{from(q),     from(k),     from(v), from(std::optional<Tensor>()),
                   from(0.0),   from(false), from(std::optional<double>(scaling)), from(q.size(1) != k.size(1))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::scaled_dot_product_attention", "", stack.data(), TORCH_ABI_VERSION));
  return rows_of(torch::stable::detail::to<Tensor>(stack[0]));
}

// x · cos + (-x₂, x₁) · sin for every head of every sequence's token, one rounding an operation.
// x [batch, 1, heads · head_dim] → [batch, heads, 1, head_dim]
Tensor rotary(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t batch = x.size(0), dim = cos.size(2), heads = x.size(2) / dim, half = dim / 2;
  const int64_t stride = cos.size(0) == 1 ? 0 : dim;
  Tensor rotated = make({batch, heads, 1, dim}, aoti_torch_dtype_float32());
  const float* in = data<const float>(x);
  float* out = data<float>(rotated);
  for (int64_t b = 0; b < batch; ++b) {
    const float *c = data<const float>(cos) + b * stride, *s = data<const float>(sin) + b * stride;
    for (int64_t h = 0; h < heads; ++h, in += dim, out += dim)
      for (int64_t i = 0; i < half; ++i) {
        out[i] = in[i] * c[i] + -in[i + half] * s[i];
        out[i + half] = in[i + half] * c[i + half] + in[i] * s[i + half];
      }
  }
  return rotated;
}

// past [batch, heads, n, head_dim] and one row more for every head → [batch, heads, n + 1, head_dim]
Tensor append(const Tensor& past, const Tensor& rows) {
  const int64_t heads = past.size(0) * past.size(1), n = past.size(2), dim = past.size(3);
  Tensor grown = make({past.size(0), past.size(1), n + 1, dim}, aoti_torch_dtype_float32());
  const float *from = data<const float>(past), *row = data<const float>(rows);
  float* to = data<float>(grown);
  for (int64_t h = 0; h < heads; ++h, from += n * dim, row += dim, to += (n + 1) * dim) {
    std::memcpy(to, from, size_t(n * dim) * 4);
    std::memcpy(to + n * dim, row, size_t(dim) * 4);
  }
  return grown;
}

}  // namespace

Tensors run_group(const Tensor& x, const Tensor& bytes) {
  STD_TORCH_CHECK(bytes.numel() == int64_t(sizeof(GroupPlan)), "spikeconv: not a plan of this library");
  GroupPlan plan;
  std::memcpy(&plan, bytes.data_ptr(), sizeof(plan));
  const Tensor in = floats(x);
  EncodeJob& job = plan.job;
  const Counts counts{nullptr, tokens_of(in), job.transform.size, job.wide};
  STD_TORCH_CHECK(in.size(in.dim() - 1) == counts.in_features, "spikeconv: inputs of another size than the plan's");
  // Scales and zero points first, for their alignment.
  static thread_local Scratch memory;
  const int64_t count_bytes = counts.tokens * counts.in_features * (job.wide ? 2 : 1);
  job.scale = static_cast<float*>(memory.bytes(counts.tokens * 8 + count_bytes));
  job.zero = reinterpret_cast<int32_t*>(job.scale + counts.tokens);
  job.counts = job.zero + counts.tokens;
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  const std::span<Member> members(plan.members, size_t(plan.member_count));
  const Tensors outputs =
      make_outputs(in, x.scalar_type(), job.scale, job.range.symmetric ? nullptr : job.zero, members);
  run_encode(job, counts.tokens);
  run_products({job.counts, counts.tokens, counts.in_features, counts.wide}, plan.products, members);
  return outputs;
}

std::tuple<Tensor, Tensor, Tensor> decode_layer(const Tensor& x, const Tensor& cos, const Tensor& sin,
                                                const Tensor& keys, const Tensor& values, const Tensors& plans,
                                                double scaling) {
  STD_TORCH_CHECK(plans.size() == 4, "spikeconv: a decoder layer has four plans, not ", plans.size());
  const Tensor residual = beside(x, x, ScalarType::Float), c = beside(x, cos, ScalarType::Float),
               s = beside(x, sin, ScalarType::Float), past_keys = beside(x, keys, ScalarType::Float),
               past_values = beside(x, values, ScalarType::Float);
  const Tensors qkv = run_group(residual, plans[0]);
  STD_TORCH_CHECK(qkv.size() == 3 && x.dim() == 3 && x.size(1) == 1 && c.dim() == 3 && c.size(1) == 1 &&
                      (c.size(0) == 1 || c.size(0) == x.size(0)) && s.numel() == c.numel() && c.size(2) % 2 == 0,
                  "spikeconv: expected one token a sequence, its cos and sin, and a plan of q, k and v");
  const int64_t batch = x.size(0), dim = c.size(2);
  for (const Tensor* past : {&past_keys, &past_values})
    STD_TORCH_CHECK(past->dim() == 4 && past->size(0) == batch && past->size(3) == dim &&
                        past->size(1) * dim == qkv[1].size(2) && qkv[2].size(2) == qkv[1].size(2) &&
                        qkv[0].size(2) % qkv[1].size(2) == 0,
                    "spikeconv: the cache is not one of these heads");
  const Tensor k = append(past_keys, rotary(qkv[1], c, s)), v = append(past_values, qkv[2]);
  const Tensor heads = attention(rotary(qkv[0], c, s), k, v, scaling);
  const Tensor attended = run_group(torch::stable::view(heads, {batch, 1, heads.numel() / batch}), plans[1])[0];
  STD_TORCH_CHECK(attended.numel() == residual.numel(), "spikeconv: the output projection is of another size");
  const Tensor middle = add(residual, attended);
  const Tensors gate_up = run_group(middle, plans[2]);
  STD_TORCH_CHECK(gate_up.size() == 2 && gate_up[0].numel() == gate_up[1].numel(),
                  "spikeconv: expected a plan of a gate and an up projection");
  const Tensor fed = run_group(multiply(silu(gate_up[0]), gate_up[1]), plans[3])[0];
  STD_TORCH_CHECK(fed.numel() == middle.numel(), "spikeconv: the down projection is of another size");
  return {add(middle, fed), k, v};
}

}  // namespace spikeconv
