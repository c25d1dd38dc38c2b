// AVX-512 with AMX: an instruction multiplies 16 tokens × 64 inputs by 64 inputs × 16 outputs, exactly. Here is only what
// consists of such products; all else is avx512vnni's.
#include "kernels.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../common/accumulate.h"
#include "../common/convert.h"
#include "amx.h"

namespace spikeconv {
namespace {

#include "simd.h"
#include "numbers.inl"
#include "output.inl"
#include "tiles.inl"
#include "softmax.inl"
#include "floats.inl"
#include "head_many.inl"
#include "dense_amx.inl"
#include "attend_amx.inl"
#include "head_amx.inl"

// Linux gives the registers to a process that asks for them.
bool ask_for_registers() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

EngineKernels engine_with_amx() {
  EngineKernels k = *kAvx512Vnni.engine;
  k.attend = attend_floats;
  k.head = head;
  k.likelihoods = likelihoods;
  return k;
}

Kernels with_amx() {
  static const EngineKernels engine = engine_with_amx();
  Kernels k = kAvx512Vnni;
  k.engine = &engine;
  k.name = "amx";
  k.small = &kAvx512Vnni;
  k.small_tokens = 14;
  k.tile_rows = kTileRows;
  k.depth_words = kDepthWords;
  k.pack = pack;
  k.dense = dense;
  k.peak = peak;
  return k;
}

}  // namespace

const Kernels* amx_kernels() {
  static const bool has = __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16") && ask_for_registers();
  static const Kernels kernels = with_amx();
  return has ? &kernels : nullptr;
}

}  // namespace spikeconv

#else

namespace spikeconv {
const Kernels* amx_kernels() { return nullptr; }
}  // namespace spikeconv

#endif
