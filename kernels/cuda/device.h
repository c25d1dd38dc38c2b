// The instructions that the kernels use beyond plain C++, one function each. Under g++ the same names come from
// emulate.h, so that the very same kernel bodies run on a CPU.
#pragma once

#include <stdint.h>

#include "../common/host_device.h"

#ifndef __CUDACC__
#include "emulate.h"
#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SPIKECONV_DEVICE static __device__ __forceinline__
#define SPIKECONV_PARAMETER const __grid_constant__

namespace spikeconv::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char spikeconv_shared[];
  return reinterpret_cast<T*>(spikeconv_shared);
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(kAllLanes, x, mask);
}

SPIKECONV_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(kAllLanes, vote); }
SPIKECONV_DEVICE void sync_warp() { __syncwarp(); }
SPIKECONV_DEVICE int bit_count(uint32_t x) { return __popc(x); }
SPIKECONV_DEVICE uint32_t reversed_bits(uint32_t x) { return __brev(x); }

// sum + a · b where a is ±1: the product is exact, so it may be fused.
SPIKECONV_DEVICE float add_signed(float a, float b, float sum) { return __fmaf_rn(a, b, sum); }
// Where no bits are promised.
SPIKECONV_DEVICE float multiply_add(float a, float b, float sum) { return __fmaf_rn(a, b, sum); }
SPIKECONV_DEVICE float exponential(float x) { return expf(x); }
SPIKECONV_DEVICE float square_root(float x) { return __fsqrt_rn(x); }

SPIKECONV_DEVICE float half_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
SPIKECONV_DEVICE uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }

template <class T>
__device__ __forceinline__ T load_constant(const T* p) {
  return __ldg(p);
}

SPIKECONV_DEVICE void atomic_add(int32_t* p, int32_t x) { atomicAdd(p, x); }
SPIKECONV_DEVICE void atomic_add(int64_t* p, int64_t x) {
  atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x));
}

// Bytes 0, 2, 4, 6 and bytes 1, 3, 5, 7 of a word of eight.
SPIKECONV_DEVICE uint32_t even_bytes(uint2 word) { return __byte_perm(word.x, word.y, 0x6420); }
SPIKECONV_DEVICE uint32_t odd_bytes(uint2 word) { return __byte_perm(word.x, word.y, 0x7531); }

// acc + Σ_j w_j k_j: unsigned weights, signed counts (common/accumulate.h, dot4).
SPIKECONV_DEVICE int32_t dp4a(uint32_t weights, uint32_t counts, int32_t acc) {
  int32_t result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(counts), "r"(acc));
  return result;
}

// c[16 outputs][8 tokens] += a[16][32] b[32][8], unsigned weights × signed counts. Fragments: see fragments.h.
SPIKECONV_DEVICE void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint2 b) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// 16 bytes from global to shared memory behind the program's back; zeros where `valid` is false (`from` is then not
// read, but must still be an address).
SPIKECONV_DEVICE void copy_async(void* to, const void* from, bool valid) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// The same with 4 bytes.
SPIKECONV_DEVICE void copy_async_word(void* to, const void* from) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(from) : "memory");
}
SPIKECONV_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace spikeconv::cuda

#endif
