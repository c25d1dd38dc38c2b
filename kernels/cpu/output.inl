// Accumulators → the output tensor, a vector of outputs at a time, straight from registers.

// What is the same for all outputs of a token.
struct TokenOutput {
  int64_t token;
  int32_t offset, zero;  // 2^(bits-1) · Σ k
  float scale;
};

TokenOutput token_output(const Output& out, int bits, int32_t count_sum, int64_t token) {
  return {token, multiply_wrapped(weight_offset(bits), count_sum), out.zero ? out.zero[token] : 0,
          out.scale ? out.scale[token] : 0.0f};
}

// What is the same for all tokens of a vector of outputs.
struct OutputLanes {
  int64_t first, n;
  Ints sum;
  Floats scale, bias;
};

// Outputs from `first` on, at most n of them; bias [kLanes].
SPIKECONV_HD OutputLanes output_lanes(const Output& out, int64_t first, int64_t n, const float* bias) {
  OutputLanes lanes{first, least<int64_t>(n, kLanes), Ints{}, Floats{}, load<Floats>(bias)};
  if (out.zero)
    lanes.sum = n >= kLanes ? load<Ints>(out.weight_sum + first) : load_first(out.weight_sum + first, lanes.n);
  if (out.scale) lanes.scale = load_floats(out.weight_scale + first, n);
  return lanes;
}

SPIKECONV_HD void write_lanes(const Output& out, const TokenOutput& of, const OutputLanes& lanes, Ints acc) {
  acc = sub_ints(acc, splat_bits(uint32_t(of.offset)));
  if (out.zero) acc = sub_ints(acc, mul_ints(splat_bits(uint32_t(of.zero)), lanes.sum));
  const int64_t at = of.token * out.stride + lanes.first;
  if (!out.scale) return store_first(static_cast<int32_t*>(out.data) + at, acc, lanes.n);
  Floats y = to_floats(acc) * splat(of.scale) * lanes.scale;
  if (out.bias) y += lanes.bias;
  if (out.dtype == Dtype::float32)
    store_first(static_cast<float*>(out.data) + at, y, lanes.n);
  else
    store_first(static_cast<uint16_t*>(out.data) + at, out.dtype == Dtype::bfloat16 ? to_bfloats(y) : to_halves(y),
                lanes.n);
}

// A row of accumulators [n] of one token, outputs from `first` on.
void write_row(const Output& out, int bits, int32_t count_sum, int64_t token, int64_t first, int64_t n,
               const int32_t* acc) {
  const TokenOutput of = token_output(out, bits, count_sum, token);
  float bias[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t here = least<int64_t>(kLanes, n - i);
    if (out.bias) load_row(out.bias, out.bias_dtype, first + i, here, bias);
    write_lanes(out, of, output_lanes(out, first + i, here, bias),
                here == kLanes ? load<Ints>(acc + i) : load_first(acc + i, here));
  }
}
