// What the machine can do at most, for the benchmarks: products without memory, and reading without products.

// Runs `rounds` × 12 independent products of registers; returns the number of multiplications. Nothing is loaded: a
// load for every product costs 4 % on Zen 4. Not inlined: gcc 12 once moved all sums in every round.
__attribute__((noinline)) int64_t peak(int64_t rounds) {
  constexpr int kSums = 12;
  alignas(64) uint8_t bytes[Product::kBytes];
  for (uint8_t& w : bytes) w = 9;
  const int8_t four[kStepInputs] = {1, -1, 2, -2};
  typename Product::Acc sum[kSums];
  SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i) sum[i] = Product::zero();
  auto w = Product::weights(bytes);
  const auto k = Product::counts(four);
  for (int64_t r = 0; r < rounds; ++r)
    SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i) {
      Product::hide(w);  // or the compiler would know the products of the last round
      Product::add(sum[i], w, k);
    }
  Ints total{};
  SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i) total = add_ints(total, Product::widen(sum[i]));
  asm volatile("" : : "m"(total));
  return rounds * kSums * Product::kBytes;
}

// Reads a buffer once as two long streams, doing next to nothing with it. Without prefetch instructions: on Zen 4 the
// hardware does better alone.
__attribute__((noinline)) void read(const uint8_t* p, int64_t bytes) {
  constexpr int64_t kStep = 2 * sizeof(Ints);
  const int64_t half = bytes / 2 / kStep * kStep;
  Ints sum[4] = {};
  for (int64_t i = 0; i < half; i += kStep)
    SPIKECONV_UNROLL for (int j = 0; j < 2; ++j) {
      sum[j] |= load<Ints>(p + i + j * int64_t(sizeof(Ints)));
      sum[2 + j] |= load<Ints>(p + half + i + j * int64_t(sizeof(Ints)));
    }
  asm volatile("" : : "m"(sum));
}
