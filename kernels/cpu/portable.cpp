// Plain C++ for any machine; the compiler vectorizes what it can.
#include "kernels.h"
#include "../common/accumulate.h"
#include "../common/convert.h"
#include "../common/hadamard.h"

namespace spikeconv {
namespace {

#include "simd.h"

struct Product {
  static constexpr int kRows = 4, kTiles = 1, kBytes = kLanes * kStepInputs, kVectors = kStepBytes / kBytes;
  static constexpr bool kWhole = true, kUnpacks = false;
  using Acc = Ints;
  struct Weights {
    uint8_t byte[kBytes];
  };
  struct Counts {
    int8_t k[kStepInputs];
  };

  static int64_t period(int, int) { return INT64_MAX; }
  static constexpr int64_t ahead(int) { return 512; }
  SPIKECONV_HD Acc zero() { return Ints{}; }
  SPIKECONV_HD void hide(Weights& w) { asm volatile("" : : "r"(&w) : "memory"); }
  SPIKECONV_HD Weights weights(const uint8_t* p) { return load<Weights>(p); }
  SPIKECONV_HD Weights low(const uint8_t* p) {
    Weights w;
    for (int i = 0; i < kBytes; ++i) w.byte[i] = p[i] & 15;
    return w;
  }
  SPIKECONV_HD Weights high(const uint8_t* p) {
    Weights w;
    for (int i = 0; i < kBytes; ++i) w.byte[i] = p[i] >> 4;
    return w;
  }
  SPIKECONV_HD Counts counts(const int8_t* p) { return load<Counts>(p); }
  SPIKECONV_HD void add(Acc& acc, const Weights& w, Counts k) {
    for (int o = 0; o < kLanes; ++o)
      for (int j = 0; j < kStepInputs; ++j) acc[o] = add_wrapped(acc[o], w.byte[o * kStepInputs + j] * k.k[j]);
  }
  SPIKECONV_HD Ints widen(Acc acc) { return acc; }
  SPIKECONV_HD void split(uint64_t word, uint32_t& even, uint32_t& odd) { split_word(word, even, odd); }
};

using WideProduct = Product;

#include "numbers.inl"
#include "encode.inl"
#include "output.inl"
#include "tiles.inl"
#include "packing.inl"
#include "dense.inl"
#include "column_sum.inl"
#include "events.inl"
#include "limits.inl"
#include "rtn.inl"
#include "rows.inl"
#include "fields.inl"
#include "softmax.inl"
#include "attend.inl"
#include "floats.inl"
#include "head_many.inl"
#include "head.inl"
#include "attend_floats.inl"
#include "recurrent.inl"
#include "engine.inl"

}  // namespace

extern const Kernels kPortable = {"portable", nullptr, 0, Product::kRows, 1, encode, pack, pack, dense, dense_few,
                                  list, events, write_row, rtn, encode_rows, attend, merge, peak, read, &engine_kernels};

}  // namespace spikeconv
