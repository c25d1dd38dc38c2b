// AMX: eight registers of 16 rows × 64 bytes, and products of such. Written as instructions, for the compiler's own
// functions do not say which memory they read.
#pragma once

#include <stdint.h>

namespace spikeconv {
namespace amx {

constexpr int kRows = 16, kBytes = 64;  // of a register

// All registers at their full size.
inline void configure() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  for (int i = 0; i < 8; ++i) shape.bytes[i] = kBytes, shape.rows[i] = kRows;
  asm volatile("ldtilecfg %0" : : "m"(shape) : "memory");
}

inline void release() { asm volatile("tilerelease" : : : "memory"); }

template <int r>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(r));
}

// Rows `stride` bytes apart.
template <int r>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(r) : "memory");
}

template <int r>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(r) : "memory");
}

// c[i][j] += Σ_k a[i][4k…] · b[k][4j…] over 16 × 4 signed × unsigned bytes: int32, exact
template <int c, int a, int b>
inline void multiply_bytes() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

// The same over 16 × 2 bfloat16: float32
template <int c, int a, int b>
inline void multiply_bfloats() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

}  // namespace amx
}  // namespace spikeconv
