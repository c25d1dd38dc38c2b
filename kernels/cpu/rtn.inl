// Round-to-nearest rows: s = p · max|w| / top, q = clamp(round(w / s)), packed; p is 1 or the best of a grid.
//
// What decides about p is summed in the same order whatever the vector's width, so that all instruction sets choose
// the same.

constexpr int kSums = 16;             // partial sums of a row; rows are padded with zeros to their multiple
constexpr int64_t kErrorBlock = 512;  // weights summed in float32 before float64 takes over
constexpr int kShrinks = 80;          // p = 1 - i/100, i < 80
constexpr float kLarge = 3;           // weights above this multiple of mean |w| come first

typedef double Doubles __attribute__((vector_size(8 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

// Integers [-top - 1, top] as floats above a constant that leaves no bits for a fraction, so that their bits can be
// clamped and read as integers.
struct Rounding {
  Floats base;
  Ints low, high;

  Floats clamp(Floats shifted) const { return (Floats)least(most((Ints)shifted, low), high); }
};

SPIKECONV_HD Rounding rounding(float top) {
  const Floats base = splat(12582912.0f);  // 1.5 · 2^23
  return {base, (Ints)base - (int32_t(top) + 1), (Ints)base + int32_t(top)};
}

// x^1.2 for 0 <= x < 2^31 within 2.4e-6 of itself. A float's bits are nearly its log2, which gives z = x^-0.8 (1 + d);
// from z⁵x⁴ = (1 + d)⁵ a polynomial finds 1 / (1 + d).
SPIKECONV_HD Floats power_six_fifths(Floats x) {
  const Floats bits = splat(1.9168808e9f) - splat(0.8f) * to_floats((Ints)x);
  const Floats z = (Floats)__builtin_convertvector(bits, Ints);
  const Floats xz = x * z, square = xz * xz, fifth = square * square * z;
  Floats correction = splat(0.068888925f) * fifth - splat(0.36722279f);
  correction = correction * fifth + splat(0.80846065f);
  correction = correction * fifth - splat(0.99076307f);
  correction = correction * fifth + splat(1.480635643f);
  return x * xz * correction;
}

SPIKECONV_HD double total(const Floats* sum) {
  float lane[kSums];
  for (int v = 0; v < kSums / kLanes; ++v) store(lane + v * kLanes, sum[v]);
  double part[4] = {};
  for (int i = 0; i < kSums; i += 4)
    for (int j = 0; j < 4; ++j) part[j] += double(lane[i + j]);
  return part[0] + part[1] + (part[2] + part[3]);
}

// `error` plus Σ|err|^2.4 of units, weights over the unclipped scale, or, as soon as it exceeds `limit`, a part of it:
// the terms are not negative, so the rest cannot bring it back.
double clip_error(const float* unit, int64_t n, float top, int shrink, double error, double limit) {
  const double p = 1 - shrink / 100.0;
  const Floats factor = splat(float(p)), inverse = splat(float(1 / p));
  const Rounding round = rounding(top);
  for (int64_t begin = 0; begin < n && !(error > limit); begin += kErrorBlock) {
    const int64_t end = least(begin + kErrorBlock, n);
    Floats sum[kSums / kLanes] = {};
    for (int64_t i = begin; i < end; i += kSums)
      for (int v = 0; v < kSums / kLanes; ++v) {
        const Floats u = load<Floats>(unit + i + v * kLanes);
        const Floats difference = (round.clamp(u * inverse + round.base) - round.base) * factor - u;
        sum[v] += power_six_fifths(difference * difference);
      }
    error += total(sum);
  }
  return error;
}

// Whether that error is sure to exceed `limit`, at half its price. With a = |err| / p, |a|^2.4 is at least a quartic
// for a <= 1/2 (0.07% below it on average), and beyond at least its tangent in a² at 1/2.
bool exceeds(const float* unit, int64_t n, float top, int shrink, double error, double limit) {
  const double p = 1 - shrink / 100.0;
  const Floats inverse = splat(float(1 / p)), half = splat(0.5f);
  const Floats c1 = splat(-0.0098366f), c2 = splat(0.398265f - 0.90943f), c3 = splat(0.9628837f);
  const Floats c4 = splat(-0.4107214f), tangent = splat(0.90943f);
  const Rounding round = rounding(top);
  // The margin is for rounding errors, here and in the error itself.
  const double power = double(power_six_fifths(splat(float(p * p)))[0]), bound = limit * 1.001 / power;
  error /= power;
  for (int64_t begin = 0; begin < n && !(error > bound); begin += kErrorBlock) {
    const int64_t end = least(begin + kErrorBlock, n);
    Floats sum[kSums / kLanes] = {}, squares[kSums / kLanes] = {};
    for (int64_t i = begin; i < end; i += kSums)
      for (int v = 0; v < kSums / kLanes; ++v) {
        const Floats u = load<Floats>(unit + i + v * kLanes);
        const Floats q = round.clamp(multiply_add(u, inverse, round.base)) - round.base;
        const Floats a = (Floats)((Ints)multiply_add(u, inverse, -q) & INT32_MAX), inner = least(a, half);
        Floats quartic = multiply_add(inner, c4, c3);
        quartic = multiply_add(inner, quartic, c2);
        quartic = multiply_add(inner, quartic, c1);
        sum[v] = multiply_add(inner, quartic, sum[v]);
        squares[v] = multiply_add(a, a, squares[v]);
      }
    for (int v = 0; v < kSums / kLanes; ++v) sum[v] = multiply_add(squares[v], tangent, sum[v]);
    error += total(sum);
  }
  return error > bound;
}

// The first i of the least error. The order of the search decides only how soon the others can be given up: it begins
// at a guess and goes outwards, and it begins with the `large` first units, whose clipping may cost too much by itself.
int best_shrink(const float* unit, int64_t large, int64_t n, float top, int guess) {
  int best = 0;
  double smallest = __builtin_inf();
  for (int step = 0; step < 2 * kShrinks; ++step) {
    const int i = guess + (step % 2 ? -(step + 1) / 2 : step / 2);
    if (i < 0 || i >= kShrinks) continue;
    double error = clip_error(unit, large, top, i, 0, smallest);
    if (error > smallest || (step && exceeds(unit + large, n - large, top, i, error, smallest))) continue;
    error = clip_error(unit + large, n - large, top, i, error, smallest);
    if (error < smallest || (error == smallest && i < best)) {
      smallest = error;
      best = i;
    }
  }
  return best;
}

// The units of a row, those above `threshold` first; returns how many these are, up to whole partial sums.
int64_t order_units(const float* weight, int64_t n, float factor, float threshold, float* unit) {
  int64_t front = 0, back = n - 1;
  for (int64_t i = 0; i < n; ++i) {
    const float w = weight[i];
    const bool large = __builtin_fabsf(w) > threshold;
    unit[front] = unit[back] = w * factor;  // one of the two places is free to be overwritten
    front += large;
    back -= !large;
  }
  return ceil_div(front, kSums) * kSums;
}

// Integers of a padded row, their sum and Σ (q s - w)².
void round_row(const float* weight, int64_t padded, float scale, float top, int8_t* q, int32_t* sum, double* error) {
  const Floats divisor = splat(scale);
  const Rounding round = rounding(top);
  const Doubles wide_scale = Doubles{} + double(scale);
  Ints sums{};
  Doubles errors[kSums / kLanes] = {};
  for (int64_t i = 0; i < padded; i += kSums)
    for (int v = 0; v < kSums / kLanes; ++v) {
      const Floats w = load<Floats>(weight + i + v * kLanes);
      const Floats rounded = round.clamp(w / divisor + round.base);
      const Ints k = (Ints)rounded - (Ints)round.base;
      store(q + i + v * kLanes, __builtin_convertvector(k, Bytes));
      sums += k;
      const Doubles difference =
          __builtin_convertvector(rounded - round.base, Doubles) * wide_scale - __builtin_convertvector(w, Doubles);
      errors[v] += difference * difference;
    }
  *sum = 0;
  *error = 0;
  for (int lane = 0; lane < kLanes; ++lane) *sum += sums[lane];
  for (int v = 0; v < kSums / kLanes; ++v)
    for (int lane = 0; lane < kLanes; ++lane) *error += errors[v][lane];
}

// Packed words of a row. The number of bits is known when it is compiled: a copy of so many bytes is then no call.
template <int kBits>
void pack_row(const int8_t* q, int64_t words, uint8_t* packed) {
  for (int64_t w = 0; w < words; ++w) {
    const uint64_t word = pack_word(load<uint64_t>(q + w * kWordInputs), kBits);
    __builtin_memcpy(packed + w * kBits, &word, kBits);
  }
}

void pack_row(const int8_t* q, int64_t words, int bits, uint8_t* packed) {
  switch (bits) {
    case 2: return pack_row<2>(q, words, packed);
    case 3: return pack_row<3>(q, words, packed);
    case 4: return pack_row<4>(q, words, packed);
    case 5: return pack_row<5>(q, words, packed);
    case 6: return pack_row<6>(q, words, packed);
    case 7: return pack_row<7>(q, words, packed);
    default: return pack_row<8>(q, words, packed);
  }
}

void rtn(const RtnJob& job, int64_t row_begin, int64_t row_end, float* scratch) {
  const int64_t n = job.columns, padded = ceil_div(n, kSums) * kSums, words = ceil_div(n, kWordInputs);
  const float top = float((1 << (job.bits - 1)) - 1);
  float *weight = scratch, *unit = scratch + padded;
  int8_t* q = reinterpret_cast<int8_t*>(unit);  // once the units are done with
  __builtin_memset(weight + n, 0, size_t(padded - n) * sizeof(float));
  double clip = 3;  // p · max|w| / mean|w| of the row before: rows of a matrix resemble each other
  for (int64_t row = row_begin; row < row_end; ++row) {
    __builtin_memcpy(weight, job.weight + row * n, size_t(n) * sizeof(float));
    Floats largest{}, sum[kSums / kLanes] = {};
    for (int64_t i = 0; i < padded; i += kSums)
      for (int v = 0; v < kSums / kLanes; ++v) {
        const Floats magnitude = (Floats)((Ints)load<Floats>(weight + i + v * kLanes) & INT32_MAX);
        largest = most(largest, magnitude);
        sum[v] += magnitude;
      }
    float peak = 0;
    for (int lane = 0; lane < kLanes; ++lane) peak = most(peak, largest[lane]);
    if (job.search_clip && peak > 0) {
      const double mean = total(sum) / double(n), guess = 100 - 100 * clip * mean / double(peak);
      const int64_t large = order_units(weight, padded, top / peak, kLarge * float(mean), unit);
      const int shrink = best_shrink(unit, large, padded, top, guess > 0 ? int(least(guess, kShrinks - 1.0)) : 0);
      const float p = float(1 - shrink / 100.0);
      clip = double(p) * double(peak) / mean;
      peak *= p;
    }
    float scale = peak / top;
    if (scale == 0) scale = 1;
    round_row(weight, padded, scale, top, q, job.sum + row, job.error + row);
    job.scale[row] = scale;
    pack_row(q, words, job.bits, job.packed + row * words * job.bits);
  }
}
