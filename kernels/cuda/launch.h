// Kernel launches: the grid is one-dimensional, shared memory beyond 48 KB is asked for, errors are thrown.
#pragma once

#include <stdint.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "device.h"

namespace spikeconv::cuda {

constexpr int64_t kMaxBlocks = INT32_MAX;

#ifdef __CUDACC__

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("spikeconv: ") + what + ": " + cudaGetErrorString(error));
}

inline int attribute(cudaDeviceAttr which) {
  int device, value;
  check(cudaGetDevice(&device), "no current CUDA device");
  check(cudaDeviceGetAttribute(&value, which, device), "a CUDA device attribute cannot be read");
  return value;
}

// Bytes of shared memory that one block may have.
inline int64_t shared_limit() { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
inline int64_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

template <class... P>
void launch(void (*kernel)(P...), int64_t blocks, int threads, int64_t shared, void* stream,
            const std::type_identity_t<P>&... arguments) {
  if (blocks == 0) return;
  if (blocks > kMaxBlocks) throw std::runtime_error("spikeconv: a CUDA kernel would need more than 2^31 blocks");
  if (shared > (32 << 10))  // the kernels' own static arrays count towards the 48 KB
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
          "this GPU has too little shared memory");
  kernel<<<unsigned(blocks), unsigned(threads), size_t(shared), static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), "a CUDA kernel was not launched");
}

#else

inline int64_t shared_limit() { return emulate::shared_limit(); }
inline int64_t multiprocessors() { return 2; }

template <class... P>
void launch(void (*kernel)(P...), int64_t blocks, int threads, int64_t shared, void*,
            const std::type_identity_t<P>&... arguments) {
  emulate::run(blocks, threads, shared, [&] { kernel(arguments...); });
}

#endif

}  // namespace spikeconv::cuda
