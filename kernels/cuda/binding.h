// What the bindings share: devices, streams and rotations.
//
// With SPIKECONV_EMULATE they register for CPU tensors in the namespace spikeconv_emulated, for tests.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cmath>

#include "../common/tensors.h"
#include "kernels.h"

namespace spikeconv::cuda {

#ifdef SPIKECONV_EMULATE
#define SPIKECONV_NAMESPACE spikeconv_emulated
#define SPIKECONV_KEY CPU
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream = nullptr;
};
#else
#define SPIKECONV_NAMESPACE spikeconv
#define SPIKECONV_KEY CUDA
// aoti_torch_get_current_cuda_stream, looked up where torch has loaded it: linking it would need a CUDA build of torch.
typedef AOTITorchError (*CurrentStream)(int32_t device, void** stream);

inline CurrentStream current_stream() {
  static const CurrentStream found = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = torch_cuda ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<CurrentStream>(symbol);
  }();
  STD_TORCH_CHECK(found, "spikeconv: this torch has no CUDA support");
  return found;
}

// The tensor's device, made current, and the stream that torch uses there.
struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
  explicit OnDevice(const Tensor& t) : guard(t.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(current_stream()(t.get_device_index(), &stream));
  }
};
#endif

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: STD_TORCH_CHECK(false, "spikeconv: expected a float32, bfloat16 or float16 tensor");
  }
}

inline int narrow(int64_t size) {
  STD_TORCH_CHECK(size <= INT32_MAX / 8, "spikeconv: ", size, " inputs are more than the CUDA kernels index");
  return int(size);
}

// The kernels' form of a rotation; tensors that it points to are kept in `keep`.
inline Transform transform_of(const Tensor& x, const Tensors& rotation, Tensors& keep) {
  Transform t{};
  t.factor = 1.0f;
  if (rotation.empty()) return t;
  STD_TORCH_CHECK(rotation.size() <= 1 + kMaxBases, "spikeconv: at most ", kMaxBases, " base matrices");
  t.order = int(block_order(x.size(x.dim() - 1), rotation));
  t.power = int(rotation[0].size(1));
  t.factor = float(1.0 / std::sqrt(double(t.order)));
  for (size_t b = 1; b < rotation.size(); ++b) {
    STD_TORCH_CHECK(rotation[b].size(0) <= 2048, "spikeconv: a base matrix must be of an order up to 2048");
    keep.push_back(beside(x, rotation[b], ScalarType::Float));
    t.bases[t.base_count] = data<const float>(keep.back());
    t.base_orders[t.base_count++] = int(rotation[b].size(0));
  }
  keep.push_back(beside(x, rotation[0], ScalarType::Float));
  t.signs = data<const float>(keep.back());
  return t;
}

// Zeroed bins for counts from `lowest` on, none unless wanted; `histogram` is told where they lie.
inline Tensor make_histogram(const Tensor& x, bool wanted, int64_t bins, float lowest, Histogram& histogram) {
  Tensor tensor = torch::stable::new_zeros(x, {wanted ? bins : 0}, ScalarType::Long);
  histogram = {wanted ? data<int64_t>(tensor) : nullptr, int(lowest), bins};
  return tensor;
}

}  // namespace spikeconv::cuda
