// Keys or values → rotated → counts of the range with the least error → rows of bytes. A block rotates some states at
// once (their blocks of the transform lie one behind the other), then every warp takes a group of inputs. Bit for bit
// spikeconv/ops/attention.py; needs -fmad=false.
#include "convert.h"
#include "hadamard_block.h"
#include "launch.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kMostBits = 8;   // of a count
constexpr int kOwnLevels = 4;  // of the tree of squares within a lane
static_assert(kThreads * kHeld >= kMaxHeadDim && kWarp << kOwnLevels >= kMaxHeadDim);

SPIKECONV_DEVICE CountRange range_of(const RowShape& shape, float clip_ratio) {
  const int low = least_count(shape), high = low + (1 << shape.bits) - 1;
  return {float(low), float(high), shape.symmetric, clip_ratio, Clip::none};
}

// Σ (s (k - z) - u)² of a group, by a warp.
SPIKECONV_DEVICE float square_error(const float* u, int group, TokenScale s, const CountRange& range) {
  const float zero = float(whole_zero(s));
  const auto square = [&](int64_t i) {
    const float count = bucket(u[i], s.scale, s.zero, range.min, range.max);
    const float difference = s.scale * (count - zero) - u[i];
    return difference * difference;
  };
  return sum_warp(own_tree_sum<kOwnLevels>(square, group, kWarp, int(threadIdx.x) % kWarp));
}

// The scale and zero point of a group, by a warp.
SPIKECONV_DEVICE TokenScale best_scale(const RowsJob& job, const float* u) {
  const int group = job.shape.group;
  float low = u[0], high = u[0];
  for (int i = int(threadIdx.x) % kWarp; i < group; i += kWarp) {
    low = least(low, u[i]);
    high = most(high, u[i]);
  }
  low = reduce_warp(low, [](float a, float b) { return least(a, b); });
  high = reduce_warp(high, [](float a, float b) { return most(a, b); });
  TokenScale best{};
  float least_error = 0.0f;
  for (int r = 0; r < job.ratio_count; ++r) {
    const CountRange range = range_of(job.shape, job.ratios[r]);
    const TokenScale s = row_scale(low, high, range);
    const float error = square_error(u, group, s, range);
    if (r > 0 && !(error < least_error)) continue;
    best = s;
    least_error = error;
  }
  return best;
}

// The counts of a group take the place of its potentials.
SPIKECONV_DEVICE void count_group(const RowsJob& job, float* u, TokenScale s, int* bins) {
  const CountRange range = range_of(job.shape, 1.0f);
  for (int i = int(threadIdx.x) % kWarp; i < job.shape.group; i += kWarp) {
    u[i] = bucket(u[i], s.scale, s.zero, range.min, range.max);
    if (job.histogram.bins) atomic_add(bins + (int(u[i]) - job.histogram.lowest), int32_t(1));
  }
}

SPIKECONV_DEVICE void pack_word(const RowShape& shape, const float* counts, int word, uint8_t* row) {
  uint64_t packed = 0;
  for (int lane = 0; lane < kWordInputs && word * kWordInputs + lane < shape.head_dim; ++lane)
    packed |= packed_field(int(counts[word * kWordInputs + lane]), shape) << shape.bits * lane;
  for (int b = 0; b < shape.bits; ++b) row[word * shape.bits + b] = uint8_t(packed >> 8 * b);
}

// `at_once` rows.
__global__ void __launch_bounds__(kThreads) encode_rows_kernel(SPIKECONV_PARAMETER RowsJob job, int at_once) {
  __shared__ int bins[1 << kMostBits];  // of the counts of this block
  float* u = dynamic_shared<float>();
  const RowShape shape = job.shape;
  const int head_dim = shape.head_dim, groups = row_groups(shape), words = row_words(shape), bytes = row_bytes(shape);
  const int64_t first = int64_t(blockIdx.x) * at_once, left = job.count - first;
  const int rows = left < at_once ? int(left) : at_once, size = rows * head_dim;
  uint8_t* to = job.rows + first * bytes;
  for (int i = int(threadIdx.x); i < size; i += kThreads)
    u[i] = load_float(job.x, job.dtype, first * head_dim + i) * job.transform.signs[i % head_dim];
  for (int i = int(threadIdx.x); job.histogram.bins && i < int(job.histogram.size); i += kThreads) bins[i] = 0;
  __syncthreads();
  transform_block(job.transform, u, size);
  for (int i = int(threadIdx.x); i < size; i += kThreads) u[i] *= job.transform.factor;
  __syncthreads();

  for (int i = int(threadIdx.x) / kWarp; i < rows * groups; i += kWarps) {
    float* own = u + i * shape.group;
    const TokenScale s = best_scale(job, own);
    sync_warp();  // every lane has read the first potential
    count_group(job, own, s, bins);
    if (threadIdx.x % kWarp == 0) write_scale(to + i / groups * bytes, shape, i % groups, s.scale, whole_zero(s));
  }
  __syncthreads();  // words may lie across groups
  for (int i = int(threadIdx.x); i < rows * words; i += kThreads)
    pack_word(shape, u + i / words * head_dim, i % words, to + i / words * bytes);
  for (int i = int(threadIdx.x); job.histogram.bins && i < int(job.histogram.size); i += kThreads)
    if (bins[i]) atomic_add(job.histogram.bins + i, int64_t(bins[i]));
}

}  // namespace

void encode_rows(const RowsJob& job, void* stream) {
  const int groups = row_groups(job.shape), at_once = groups < kWarps ? kWarps / groups : 1;
  launch(encode_rows_kernel, ceil_div(job.count, at_once), kThreads, int64_t(at_once) * job.shape.head_dim * 4, stream,
         job, at_once);
}

}  // namespace spikeconv::cuda
