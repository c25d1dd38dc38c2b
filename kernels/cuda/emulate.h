// A GPU for tests: kernels compiled by g++ run on one CPU thread, blocks one after the other, the threads of a block as
// fibers that switch at barriers and warp instructions only.
//
// What it catches: wrong indices, missing barriers (fibers run in an order that a test chooses, shared memory starts
// as garbage, asynchronous copies happen as late as they may), barriers or warp instructions that not all threads
// reach. What it cannot: the hardware's weaker memory order, speed, alignment traps.
#pragma once

#include <stdint.h>
#include <string.h>

#include <functional>

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct EmulatedIndex {
  unsigned x;
};
extern EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

#define __global__ static
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define SPIKECONV_DEVICE static inline __attribute__((unused))
#define SPIKECONV_PARAMETER const

namespace spikeconv::cuda {
namespace emulate {

int64_t shared_limit();  // bytes; SPIKECONV_EMULATE_SHARED overrides
void run(int64_t blocks, int threads, int64_t shared, const std::function<void()>& kernel);
void* shared_memory();
void barrier();
// Every lane hands in `bytes` (at most 64) and gets those of lane l at result + 64 l, once all lanes have.
const uint8_t* exchange(const void* value, int bytes);
void copy(void* to, const void* from, int bytes, bool valid);
void commit();
void wait(int pending);
inline int lane() { return int(threadIdx.x % 32); }

}  // namespace emulate

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulate::shared_memory());
}

template <class T>
T of_lane(const uint8_t* slots, int lane) {
  T value;
  memcpy(&value, slots + 64 * lane, sizeof value);
  return value;
}

template <class T>
T shuffle_xor(T x, int mask) {
  return of_lane<T>(emulate::exchange(&x, sizeof x), emulate::lane() ^ mask);
}

SPIKECONV_DEVICE uint32_t ballot(bool vote) {
  const uint8_t* slots = emulate::exchange(&vote, sizeof vote);
  uint32_t result = 0;
  for (int l = 0; l < 32; ++l) result |= uint32_t(of_lane<bool>(slots, l)) << l;
  return result;
}

SPIKECONV_DEVICE void sync_warp() { emulate::exchange("", 1); }
SPIKECONV_DEVICE int bit_count(uint32_t x) { return __builtin_popcount(x); }
SPIKECONV_DEVICE uint32_t reversed_bits(uint32_t x) {
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
  return result;
}

SPIKECONV_DEVICE float add_signed(float a, float b, float sum) { return sum + a * b; }
SPIKECONV_DEVICE float multiply_add(float a, float b, float sum) { return sum + a * b; }
SPIKECONV_DEVICE float exponential(float x) { return __builtin_expf(x); }
SPIKECONV_DEVICE float square_root(float x) { return __builtin_sqrtf(x); }
SPIKECONV_DEVICE float half_to_float(uint16_t h) {
  _Float16 x;
  memcpy(&x, &h, 2);
  return float(x);
}
SPIKECONV_DEVICE uint16_t float_to_half(float x) {
  const _Float16 h = _Float16(x);
  uint16_t bits;
  memcpy(&bits, &h, 2);
  return bits;
}

template <class T>
T load_constant(const T* p) {
  return *p;
}

template <class T>
void atomic_add(T* p, T x) {
  *p += x;
}

SPIKECONV_DEVICE uint32_t pick_bytes(uint2 word, int first) {
  uint32_t result = 0;
  for (int j = 0; j < 4; ++j) {
    const int byte = 2 * j + first;
    result |= ((byte < 4 ? word.x : word.y) >> byte % 4 * 8 & 255) << 8 * j;
  }
  return result;
}
SPIKECONV_DEVICE uint32_t even_bytes(uint2 word) { return pick_bytes(word, 0); }
SPIKECONV_DEVICE uint32_t odd_bytes(uint2 word) { return pick_bytes(word, 1); }

SPIKECONV_DEVICE int32_t dp4a(uint32_t weights, uint32_t counts, int32_t acc) {
  for (int j = 0; j < 4; ++j) acc += int32_t(weights >> 8 * j & 255) * int32_t(int8_t(counts >> 8 * j & 255));
  return acc;
}

// Element by element as the PTX ISA (9.7.14, mma.m16n8k32 with 8-bit integers) places them: with g = lane / 4 and
// t = lane % 4, a_i is at row g (+ 8 for i in 4..7 and 12..15), column 4 t + i % 4 (+ 16 for i ≥ 8); b_i at row
// 4 t + i % 4 (+ 16 for i ≥ 4), column g; c_i at row g (+ 8 for i ≥ 2), column 2 t + i % 2.
SPIKECONV_DEVICE void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint2 b) {
  const uint32_t own[6] = {a[0], a[1], a[2], a[3], b.x, b.y};
  const uint8_t* slots = emulate::exchange(own, sizeof own);
  uint8_t rows[16][32];
  int8_t columns[32][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const uint8_t* bytes = slots + 64 * lane;
    for (int i = 0; i < 16; ++i)
      rows[g + ((i >= 4 && i < 8) || i >= 12 ? 8 : 0)][4 * t + i % 4 + (i >= 8 ? 16 : 0)] = bytes[i];
    for (int i = 0; i < 8; ++i) columns[4 * t + i % 4 + (i >= 4 ? 16 : 0)][g] = int8_t(bytes[16 + i]);
  }
  const int g = emulate::lane() / 4, t = emulate::lane() % 4;
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 32; ++k) c[i] += int32_t(rows[g + (i >= 2 ? 8 : 0)][k]) * columns[k][2 * t + i % 2];
}

SPIKECONV_DEVICE void copy_async(void* to, const void* from, bool valid) { emulate::copy(to, from, 16, valid); }
SPIKECONV_DEVICE void copy_async_word(void* to, const void* from) { emulate::copy(to, from, 4, true); }
SPIKECONV_DEVICE void copy_commit() { emulate::commit(); }
template <int pending>
void copy_wait() {
  emulate::wait(pending);
}

}  // namespace spikeconv::cuda

static inline void __syncthreads() { spikeconv::cuda::emulate::barrier(); }
