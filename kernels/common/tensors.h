// What both bindings need of LibTorch's stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "layout.h"
#include "settings.h"

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

// Checks a rotation of inputs of a size, signs [size / power, power] and base matrices; returns the order of its block,
// the product of the bases' and `power`.
inline int64_t block_order(int64_t size, const Tensors& rotation) {
  const Tensor& signs = rotation[0];
  STD_TORCH_CHECK(signs.dim() == 2, "spikeconv: a rotation's signs must have two axes, the second of a power of two");
  const int64_t power = signs.size(1);
  STD_TORCH_CHECK(power > 0 && (power & (power - 1)) == 0, "spikeconv: ", power, " is not a power of two");
  int64_t order = power;
  for (size_t b = 1; b < rotation.size(); ++b) {
    const Tensor& base = rotation[b];
    STD_TORCH_CHECK(base.dim() == 2 && base.size(0) == base.size(1) && base.size(0) > 0,
                    "spikeconv: a base matrix must be square");
    order *= base.size(0);
  }
  STD_TORCH_CHECK(signs.numel() == size && size % order == 0,
                  "spikeconv: the rotation's block must divide the input size");
  return order;
}

// τ of a clip as a tensor on the device of `x`, kept in `keep`; null where nothing is clipped.
inline const float* threshold_of(const Tensor& x, const OptionalTensor& threshold, Clip clip, Tensors& keep) {
  STD_TORCH_CHECK((clip == Clip::none) != threshold.has_value(),
                  "spikeconv: a membrane clip and its threshold come together; one of them is missing");
  if (!threshold) return nullptr;
  STD_TORCH_CHECK(threshold->numel() == 1, "spikeconv: a threshold is one number, not ", threshold->numel());
  keep.push_back(beside(x, *threshold, ScalarType::Float));
  return data<const float>(keep.back());
}

// A temporal code's digits int8 [slots, largest + 1] beside the counts.
inline Tensor digits_of(const Tensor& counts, const OptionalTensor& digits, int largest) {
  STD_TORCH_CHECK(digits && digits->dim() == 2 && digits->size(1) == largest + 1 &&
                      digits->scalar_type() == ScalarType::Char,
                  "spikeconv: to unfold takes a code's digits, int8 [slots, ", largest + 1, "]");
  return beside(counts, *digits, ScalarType::Char);
}

// The tensors of one of the linears that share their counts; flat, four of each.
struct Operands {
  const Tensor &weight, &scale;
  const OptionalTensor &sum, &bias;  // the former with a zero point only
  int64_t out_features;
};

inline std::vector<Operands> operands_of(const std::vector<OptionalTensor>& flat, bool zero_point) {
  STD_TORCH_CHECK(!flat.empty() && flat.size() % 4 == 0,
                  "spikeconv: expected weight, scale, sum and bias of every linear, not ", flat.size(), " tensors");
  std::vector<Operands> all;
  for (size_t i = 0; i < flat.size(); i += 4) {
    STD_TORCH_CHECK(flat[i] && flat[i + 1], "spikeconv: every weight needs its scale");
    const int64_t out = flat[i + 1]->numel();
    all.push_back({*flat[i], *flat[i + 1], flat[i + 2], flat[i + 3], out});
    STD_TORCH_CHECK(flat[i + 2].has_value() == zero_point, "spikeconv: zero points and sums come together");
    STD_TORCH_CHECK(!zero_point || flat[i + 2]->numel() == out, "spikeconv: one sum per output");
    STD_TORCH_CHECK(!flat[i + 3] || flat[i + 3]->numel() == out, "spikeconv: one bias per output");
  }
  return all;
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
