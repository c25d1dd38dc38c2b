// What the machine can do at most, for the benchmarks: products without memory, and reading without products.

// Runs `rounds` × 12 independent products, weights from the first-level cache; returns the number of multiplications.
int64_t peak(int64_t rounds) {
  constexpr int kSums = 12;
  alignas(64) uint8_t weights[kSums * Product::kBytes];
  alignas(64) int32_t out[kTileOutputs] = {};
  for (uint8_t& w : weights) w = 9;
  const int8_t four[kStepInputs] = {1, -1, 2, -2};
  typename Product::Acc sum[kSums];
  SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i) sum[i] = Product::zero();
  const auto k = Product::counts(four);
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : : "r"(weights) : "memory");  // the compiler may not know the products of the last round
    SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i)
      Product::add(sum[i], Product::weights(weights + i * Product::kBytes), k);
  }
  SPIKECONV_UNROLL for (int i = 0; i < kSums; ++i) Product::drain(sum[i], out);
  asm volatile("" : : "m"(out));
  return rounds * kSums * Product::kBytes;
}

// Reads a buffer once, doing next to nothing with it.
void read(const uint8_t* p, int64_t bytes) {
  Ints sum[4] = {};
  for (int64_t i = 0; i + int64_t(sizeof sum) <= bytes; i += int64_t(sizeof sum)) {
    __builtin_prefetch(p + i + 2048);
    SPIKECONV_UNROLL for (int j = 0; j < 4; ++j) sum[j] |= load<Ints>(p + i + j * int64_t(sizeof(Ints)));
  }
  asm volatile("" : : "m"(sum));
}
