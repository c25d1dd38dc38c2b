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
  // Signed counts only, in units of the token's RMS, or of its mean magnitude: the step (0: it follows from the largest
  // potential), and what is too small to be sent. A potential that is beyond the largest count of one spike by less is
  // sent as that count.
  float step = 0, dead_zone = 0, one_spike = 0;
  bool by_mean = false;
};

SPIKECONV_HD bool needs_unit(const CountRange& range) { return range.step > 0.0f || range.dead_zone > 0.0f; }

// Counts beyond int8 are multiplied as two planes of bytes, k = 128 · high + low.
constexpr int kPlane = 128;
SPIKECONV_HD int8_t high_plane(int count) { return int8_t(count >> 7); }
SPIKECONV_HD int8_t low_plane(int count) { return int8_t(count & (kPlane - 1)); }

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
  float dead = 0, near = 0;  // |u| below: no spike; below: no more than one
};

// `unit` is the token's RMS or mean magnitude, needed where the range says so. A token with potentials that the step
// would not reach, such as attention's sink, gets one that does, and no dead zone.
SPIKECONV_HD TokenScale token_scale(float low, float high, const CountRange& range, float unit = 0.0f) {
  TokenScale result{0.0f, 0.0f};
  if (range.symmetric) {
    const float peak = high > -low ? high : -low;
    result.scale = range.clip_ratio * peak / range.max;
    if (needs_unit(range)) {
      const float fine = range.step * unit;
      const bool reaching = range.step > 0.0f && result.scale > fine;
      if (range.step > 0.0f && !reaching) result.scale = fine;
      result.dead = reaching ? 0.0f : range.dead_zone * unit;
    }
  } else {
    low = range.clip_ratio * low;
    high = range.clip_ratio * high;
    low = low > 0.0f ? 0.0f : low;  // NaN stays
    high = high < 0.0f ? 0.0f : high;
    result.scale = (high - low) / (range.max - range.min);
  }
  if (result.scale == 0.0f) result.scale = 1.0f;
  if (!range.symmetric) result.zero = round_even(-low / result.scale);
  if (range.one_spike > 0.0f) result.near = range.one_spike * result.scale + result.dead;
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

// A count where the token has a dead zone: none for |u| < dead, one spike's at most for |u| < near.
template <class F>
SPIKECONV_HD F zoned(F count, F u, F dead, F near, F one_spike) {
  const F size = u < F{} ? -u : u;
  F within = count > one_spike ? one_spike : count;
  within = within < -one_spike ? -one_spike : within;
  count = size < near ? within : count;
  return size < dead ? F{} : count;
}

// Spike of a count in a slot of a temporal code whose digits, by |count|, are given: they go with the count's sign.
SPIKECONV_HD int spike_of(int count, const int8_t* digits) { return count < 0 ? -digits[-count] : digits[count]; }

}  // namespace spikeconv
