// One spelling for functions that both compilers inline: gcc and clang for the CPU, nvcc for host and device.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define SPIKECONV_HD static __host__ __device__ __forceinline__
#else
// `static` keeps every translation unit's copy its own: a copy compiled for AVX-512 must not serve the portable code.
#define SPIKECONV_HD static inline __attribute__((always_inline, unused))
#endif
