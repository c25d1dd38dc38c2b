// The settings of the ops, each of which comes as one table of numbers: the mirror of spikeconv/ops/settings.py, for
// both bindings. Checked here, once a call; what follows may rely on it.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <span>

#include "counts.h"
#include "rows.h"

namespace spikeconv {

using Table = std::span<const double>;

constexpr int kLargestCount = kPlane * 127 + 127;  // of a product: a count is a signed byte, or two planes of them

inline void check_table(Table table, size_t size, const char* names) {
  STD_TORCH_CHECK(table.size() == size, "spikeconv: a table of ", table.size(), " settings, expected ", names);
  for (const double value : table)
    STD_TORCH_CHECK(std::isfinite(value), "spikeconv: ", value, " among the settings ", names);
}

inline bool is_whole(double value) { return value == std::floor(value); }

// The name that a number stands for.
template <class E>
E chosen(double number, int count, const char* what) {
  STD_TORCH_CHECK(is_whole(number) && number >= 0 && number < count, "spikeconv: ", what, " number ", number,
                  ", expected 0 to ", count - 1);
  return E(int(number));
}

struct EncodeSettings {
  CountRange range;
  float norm_epsilon;

  bool wide() const { return range.min < INT8_MIN || range.max > INT8_MAX; }  // counts take int16
  int64_t bins() const { return int64_t(range.max - range.min) + 1; }         // of a histogram of counts

  static EncodeSettings from_table(Table t) {
    check_table(t, 10,
                "count_min, count_max, symmetric, clip_ratio, clip, norm_epsilon, step, dead_zone, one_spike, by_mean");
    const bool symmetric = t[2] != 0;
    STD_TORCH_CHECK(is_whole(t[0]) && is_whole(t[1]) && t[0] >= INT16_MIN && t[0] <= 0 && t[1] > 0 &&
                        t[1] <= INT16_MAX && (symmetric || t[0] == 0),
                    "spikeconv: counts from ", t[0], " to ", t[1], symmetric ? "" : " with a zero point",
                    ", expected a range in int16 that holds 0 and more, and begins with it where there is a zero point");
    STD_TORCH_CHECK(t[3] > 0, "spikeconv: a clip ratio of ", t[3], ", expected a share above 0");
    STD_TORCH_CHECK(t[5] >= 0, "spikeconv: an epsilon of ", t[5], " for a norm, expected none below 0");
    STD_TORCH_CHECK(t[6] >= 0 && t[7] >= 0, "spikeconv: a step of ", t[6], " and a dead zone of ", t[7],
                    ", expected none below 0");
    STD_TORCH_CHECK(is_whole(t[8]) && t[8] >= 0 && t[8] <= t[1], "spikeconv: ", t[8],
                    " as the largest count of one spike, expected a count or 0");
    STD_TORCH_CHECK(symmetric || (t[6] == 0 && t[7] == 0 && t[8] == 0),
                    "spikeconv: a step or a dead zone beside a zero point, which only signed counts take");
    return {{float(t[0]), float(t[1]), symmetric, float(t[3]), chosen<Clip>(t[4], 4, "clip"), float(t[6]), float(t[7]),
             float(t[8]), t[9] != 0},
            float(t[5])};
  }
};

struct RowSettings {
  RowShape shape;
  int ratio_count;
  float ratios[kMostRatios];  // shares of a group's range to try

  // Those of counts, without a clip ratio.
  CountRange range() const {
    const float low = float(least_count(shape));
    return {low, low + float(bins() - 1), shape.symmetric, 1, Clip::none};
  }
  int64_t bins() const { return int64_t(1) << shape.bits; }  // of a histogram of counts

  static RowSettings from_table(Table t, int64_t head_dim) {
    STD_TORCH_CHECK(t.size() > 3 && t.size() <= 3 + kMostRatios, "spikeconv: ", int64_t(t.size()) - 3,
                    " clip ratios, expected 1 to ", kMostRatios);
    check_table(t, t.size(), "bits, group, symmetric, clip ratios");
    STD_TORCH_CHECK(is_whole(t[0]) && t[0] >= 2 && t[0] <= 8, "spikeconv: keys and values are counts of 2 to 8 bits, not ",
                    t[0]);
    STD_TORCH_CHECK(is_whole(t[1]) && head_dim >= 1 && t[1] >= 1 && t[1] <= double(head_dim) &&
                        head_dim % int64_t(t[1]) == 0,
                    "spikeconv: groups of ", t[1], " do not divide a head_dim of ", head_dim);
    RowSettings settings{{int(head_dim), int(t[0]), int(t[1]), t[2] != 0}, 0, {}};
    for (const double ratio : t.subspan(3)) {
      STD_TORCH_CHECK(ratio > 0, "spikeconv: a clip ratio of ", ratio, ", expected a share above 0");
      settings.ratios[settings.ratio_count++] = float(ratio);
    }
    return settings;
  }
};

enum class Execution : int { automatic = 0, dense = 1, events = 2, unfold = 3 };

// What the input I of a slot does to a membrane V.
enum class Membrane : int {
  add = 0,      // V + I
  doubled = 1,  // 2 V + I
  ramp = 2      // V + C with a current C that stays: C + I
};

struct ProductSettings {
  int bits, largest;  // of a weight; bound on |count|
  Execution execution;
  Membrane membrane;  // where slots are unfolded

  static ProductSettings from_table(Table t, int64_t in_features) {
    check_table(t, 4, "bits, largest_count, execution, membrane");
    STD_TORCH_CHECK(is_whole(t[0]) && t[0] >= 2 && t[0] <= 8, "spikeconv: weights of ", t[0], " bits, expected 2 to 8");
    STD_TORCH_CHECK(is_whole(t[1]) && t[1] >= 1 && t[1] <= kLargestCount, "spikeconv: counts up to ", t[1],
                    ", but the kernels multiply counts up to ", kLargestCount);
    const int bits = int(t[0]), largest = int(t[1]);
    const int64_t most = (INT32_MAX >> (bits - 1)) / largest;  // inputs
    STD_TORCH_CHECK(in_features <= most, "spikeconv: ", in_features, " inputs with counts up to ", largest,
                    " and weights of ", bits, " bits may add up beyond an int32, which takes ", most, " inputs");
    return {bits, largest, chosen<Execution>(t[2], 4, "execution"), chosen<Membrane>(t[3], 3, "membrane")};
  }

  // Rows of a weight cannot add up to more.
  int64_t largest_sum(int64_t in_features) const { return in_features << (bits - 1); }
};

}  // namespace spikeconv
