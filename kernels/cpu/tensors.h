// Tensors as the CPU binding makes and reads them.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "../common/tensors.h"
#include "run.h"

namespace spikeconv {

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::Int: return Dtype::int32;
    default: STD_TORCH_CHECK(false, "spikeconv: expected a float32, bfloat16 or float16 tensor");
  }
}

// An uninitialized contiguous tensor. (Much cheaper than the dispatcher's empty, and there are several a call.)
inline Tensor make(const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= std::max<int64_t>(sizes[d], 1)) strides[d] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

inline std::vector<int64_t> shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline int32_t dtype_code(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    default: STD_TORCH_CHECK(false, "spikeconv: outputs are float32, bfloat16 or float16");
  }
}

// Gives every member an output [..., out] like `x` of that type, and its tokens' scales and zero points.
inline Tensors make_outputs(const Tensor& x, ScalarType dtype, const float* scale, const int32_t* zero,
                     std::span<Member> members) {
  Tensors outputs;
  for (Member& m : members) {
    outputs.push_back(make(with_last(x, m.weight.out_features), dtype_code(dtype)));
    m.output.data = outputs.back().data_ptr();
    m.output.dtype = dtype_of(outputs.back());
    m.output.scale = scale;
    m.output.zero = zero;
  }
  return outputs;
}

// The rotation of inputs of a size; `keep` holds on to the tensors behind it.
inline Transform transform_of(int64_t size, const Tensors& rotation, Tensors& keep) {
  Transform t{};
  t.size = size;
  t.factor = 1.0f;
  if (rotation.empty()) return t;
  STD_TORCH_CHECK(rotation.size() <= 1 + kMaxBases, "spikeconv: at most ", kMaxBases, " base matrices");
  const Tensor& signs = rotation[0];
  t.order = block_order(size, rotation);
  t.power = signs.size(1);
  t.factor = float(1.0 / std::sqrt(double(t.order)));
  for (size_t b = 1; b < rotation.size(); ++b) {
    keep.push_back(beside(signs, rotation[b], ScalarType::Float));
    t.bases[t.base_count] = data<const float>(keep.back());
    t.base_orders[t.base_count++] = rotation[b].size(0);
  }
  keep.push_back(beside(signs, signs, ScalarType::Float));
  t.signs = data<const float>(keep.back());
  return t;
}

// Zeroed bins for counts from `lowest` on, none unless wanted; `histogram` is told where they lie.
inline Tensor make_histogram(bool wanted, int64_t bins, float lowest, Histogram& histogram) {
  Tensor tensor = make({wanted ? bins : 0}, aoti_torch_dtype_int64());
  std::fill(data<int64_t>(tensor), data<int64_t>(tensor) + tensor.numel(), 0);
  histogram = {wanted ? data<int64_t>(tensor) : nullptr, int(lowest), bins};
  return tensor;
}

}  // namespace spikeconv
