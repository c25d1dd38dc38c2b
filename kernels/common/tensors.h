// What both bindings need of LibTorch's stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "counts.h"
#include "layout.h"
#include "rows.h"

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

// Whether the kernels load that type: float32, bfloat16 or float16.
inline bool is_float(const Tensor& t) {
  const auto type = t.scalar_type();
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

// Contiguous, and of a type that the kernels load.
inline Tensor floats(const Tensor& t) { return rows_of(is_float(t) ? t : torch::stable::to(t, ScalarType::Float)); }

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

inline Clip clip_of(const std::string& name) {
  if (name == "none") return Clip::none;
  if (name == "relu") return Clip::relu;
  if (name == "shifted") return Clip::shifted;
  STD_TORCH_CHECK(name == "two-sided", "spikeconv: clip must be none, relu, shifted or two-sided");
  return Clip::two_sided;
}

// Checks a rotation of inputs of a size; returns the order of its block, the product of the bases' and `power`.
inline int64_t block_order(int64_t size, const Tensor& signs, const Tensors& bases, int64_t power) {
  STD_TORCH_CHECK(power > 0 && (power & (power - 1)) == 0, "spikeconv: ", power, " is not a power of two");
  int64_t order = power;
  for (const Tensor& base : bases) {
    STD_TORCH_CHECK(base.dim() == 2 && base.size(0) == base.size(1) && base.size(0) > 0,
                    "spikeconv: a base matrix must be square");
    order *= base.size(0);
  }
  STD_TORCH_CHECK(signs.numel() == size && size % order == 0,
                  "spikeconv: the rotation's block must divide the input size");
  return order;
}

// Checks how keys and values lie in rows.
inline RowShape row_shape(int64_t head_dim, int64_t bits, int64_t group, bool symmetric) {
  STD_TORCH_CHECK(bits >= 2 && bits <= 8, "spikeconv: keys and values are counts of 2 to 8 bits, not ", bits);
  STD_TORCH_CHECK(head_dim >= 1 && group >= 1 && head_dim % group == 0, "spikeconv: groups of ", group,
                  " do not divide a head_dim of ", head_dim);
  return {int(head_dim), int(bits), int(group), symmetric};
}

// Shape of a weight in tiles.
inline std::vector<int64_t> tiles_shape(int64_t out_features, int64_t in_features, int64_t bits) {
  const int64_t tiles = ceil_div(out_features, kTileOutputs), words = ceil_div(in_features, kWordInputs);
  if (is_nibble(int(bits))) return {tiles, words, kTileOutputs, kStepInputs};
  return {tiles, words, 2, kTileOutputs, kStepInputs};
}

// Shape of a weight in columns.
inline std::vector<int64_t> columns_shape(int64_t out_features, int64_t in_features, int64_t bits) {
  return {in_features, is_nibble(int(bits)) ? ceil_div(out_features, 2) : out_features};
}

}  // namespace spikeconv
