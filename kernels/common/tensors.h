// What both bindings need of LibTorch's stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace spikeconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;
using OptionalTensor = std::optional<Tensor>;

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// Contiguous, so that rows lie one behind the other.
inline Tensor rows_of(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// The same, of a type that the kernels load: float32, bfloat16 or float16.
inline Tensor floats(const Tensor& t) {
  const auto type = t.scalar_type();
  const bool known = type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
  return rows_of(known ? t : torch::stable::to(t, ScalarType::Float));
}

// A contiguous companion of `x`: of that type, and on the same device.
inline Tensor beside(const Tensor& x, const Tensor& t, ScalarType type) {
  STD_TORCH_CHECK(t.is_cuda() == x.is_cuda() && (!x.is_cuda() || t.get_device_index() == x.get_device_index()),
                  "spikeconv: all tensors of an operator must be on one device");
  STD_TORCH_CHECK(t.scalar_type() == type, "spikeconv: a tensor of another type than expected");
  return rows_of(t);
}

// A tensor's sizes with another last one.
inline std::vector<int64_t> with_last(const Tensor& t, int64_t last) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  sizes.back() = last;
  return sizes;
}

// How many rows of the last axis there are.
inline int64_t tokens_of(const Tensor& t) {
  int64_t tokens = 1;
  for (int64_t d = 0; d + 1 < t.dim(); ++d) tokens *= t.size(d);
  return tokens;
}

}  // namespace spikeconv
