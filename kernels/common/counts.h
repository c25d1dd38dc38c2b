// Spike counts: k = clamp(round(u / s) + z, k_min, k_max), and their unfolding (SDLLM, eq. 9, 10, 16, 17).
//
// Templates, because the CPU passes vectors and the GPU floats. Every operation is one IEEE operation in a fixed order
// (no contraction, no reassociation), so that all back ends give the same bits.
#pragma once

#include "host_device.h"

namespace spikeconv {

// What is cut off the membrane potential before it is counted (SDLLM, quantile-smoothed ReLU).
enum class Clip : int { none = 0, relu = 1, shifted = 2, two_sided = 3 };

struct CountRange {
  float min, max;     // smallest and largest count
  bool symmetric;     // no zero point
  float clip_ratio;   // share of the token's range that is kept
  Clip clip;
};

// Where counts are counted: bin i is the count `lowest + i`. Added to; null bins: nowhere.
struct Histogram {
  int64_t* bins;
  int lowest;
  int64_t size;
};

// Round to nearest, ties to even, |x| < 2^22: adding 1.5·2^23 leaves no bit for a fraction.
template <class F>
SPIKECONV_HD F round_even(F x) {
  const F magic = F{} + 12582912.0f;
  return (x + magic) - magic;
}

template <class F>
SPIKECONV_HD F clip_potential(F u, Clip clip, F threshold) {
  const F zero{};
  switch (clip) {
    case Clip::relu: return u > threshold ? u : (u != u ? u : zero);
    case Clip::shifted: return u > threshold ? u - threshold : (u != u ? u : zero);
    case Clip::two_sided: return u > threshold ? u - threshold : (u < -threshold ? u + threshold : (u != u ? u : zero));
    default: return u;
  }
}

// Scale and zero point of a token whose potential lies in [low, high].
struct TokenScale {
  float scale, zero;
};

SPIKECONV_HD TokenScale token_scale(float low, float high, const CountRange& range) {
  TokenScale result{0.0f, 0.0f};
  if (range.symmetric) {
    const float peak = high > -low ? high : -low;
    result.scale = range.clip_ratio * peak / range.max;
  } else {
    low = range.clip_ratio * low;
    high = range.clip_ratio * high;
    low = low > 0.0f ? 0.0f : low;  // NaN stays
    high = high < 0.0f ? 0.0f : high;
    result.scale = (high - low) / (range.max - range.min);
  }
  if (result.scale == 0.0f) result.scale = 1.0f;
  if (!range.symmetric) result.zero = round_even(-low / result.scale);
  return result;
}

// The zero point as it is stored; 0 where it is not a number.
SPIKECONV_HD int32_t whole_zero(TokenScale s) { return s.zero != s.zero ? 0 : int32_t(s.zero); }

// The count of potential u as a whole float; 0 where u / s is not a number.
template <class F>
SPIKECONV_HD F bucket(F u, F scale, F zero, F low, F high) {
  F k = u / scale;
  // Clamped before the rounding too, so that the rounding's range suffices; the bounds are whole numbers.
  const F under = low - zero, over = high - zero;
  k = k < under ? under : k;
  k = k > over ? over : k;
  k = round_even(k) + zero;
  return k != k ? F{} : k;
}

// Spike of a count in a slot of a temporal code whose digits, by |count|, are given: they go with the count's sign.
SPIKECONV_HD int spike_of(int count, const int8_t* digits) { return count < 0 ? -digits[-count] : digits[count]; }

}  // namespace spikeconv
