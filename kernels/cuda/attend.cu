// Attention over rows of counts, as flash decoding: nothing of the size [queries, length] is ever written.
//
// A block has up to kQueries queries that share their keys, and a split of the positions. Of a tile of positions it
// copies the packed rows to shared memory; then one thread scores a position for all queries, a warp turns a query's
// scores into weights, and a thread adds up one word of eight inputs over every so many positions. What a split has
// found is a part: Σ e^(score - top) v, top, and Σ e^(score - top). A second kernel combines the parts of a query.
#include "convert.h"
#include "launch.h"
#include "reduce.h"
#include "row_products.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kTileBytes = 40 << 10;  // of keys and values at most
constexpr int kSplitQueries = 64;     // for more there are blocks enough without splits
constexpr int kLeastSplit = 256;      // positions
constexpr int kMaxSplits = 64;
static_assert(kMaxSplits <= kThreads);

struct Plan {
  int query_blocks, split_keys, splits;
  int tile_keys;  // positions of a tile, one per thread at most
  int pitch;      // bytes from one row of a tile to the next
  int width;      // floats of a query: whole words
};

// A query on its way through the tiles.
struct Running {
  float top, sum;   // of the scores so far, and of their weights
  float factor;     // what the last tile's higher top makes of earlier weights
  int64_t mask_at;  // of its first position
};

// What a block has to do.
struct Work {
  int batch, key_head;
  int first_query, queries;  // of the key head; fewer than kQueries behind the last
  int split, first, last;    // positions
  int64_t query;             // the first one among all
};

SPIKECONV_DEVICE int least_of(int a, int b) { return b < a ? b : a; }

// A score's weight is e^(score - base). A row of -∞ only must not become NaN before it is known that no more follows.
SPIKECONV_DEVICE float base_of(float top) { return top < -3.4028235e38f ? 0.0f : top; }

// A query's products with the keys at `first` … become scores, then weights, by a warp.
SPIKECONV_DEVICE void weigh(const AttendJob& job, int first, int count, float* weights, Running& running) {
  const int lane = int(threadIdx.x) % kWarp;
  const float before = running.top;
  float top = before, sum = 0.0f;
  for (int i = lane; i < count; i += kWarp) {
    weights[i] *= job.scaling;
    if (job.mask)
      weights[i] += load_float(job.mask, job.mask_dtype, running.mask_at + (first + i) * job.mask_strides[3]);
    top = most(top, weights[i]);
  }
  top = reduce_warp(top, [](float a, float b) { return most(a, b); });
  const float base = base_of(top);
  for (int i = lane; i < count; i += kWarp) {
    weights[i] = exponential(weights[i] - base);
    sum += weights[i];
  }
  sum = sum_warp(sum);
  if (lane > 0) return;
  running.factor = exponential(before - base);
  running.sum = running.sum * running.factor + sum;
  running.top = top;
}

// Rows of the positions at `first` …, into shared memory.
SPIKECONV_DEVICE void copy_rows(const Rows& rows, const Work& work, int first, int count, int bytes, uint8_t* to,
                                int pitch) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t stride = rows.stride;
  const uint8_t* from =
      rows.data + work.batch * rows.batch_stride + work.key_head * rows.head_stride + first * stride;
  const bool aligned = (reinterpret_cast<uintptr_t>(from) | uint64_t(stride) | unsigned(bytes)) % 4 == 0;
  for (int row = int(threadIdx.x) / kWarp; row < count; row += kWarps) {
    if (aligned)
      for (int i = 4 * lane; i < bytes; i += 4 * kWarp) copy_async_word(to + row * pitch + i, from + row * stride + i);
    else
      for (int i = lane; i < bytes; i += kWarp) to[row * pitch + i] = load_constant(from + row * stride + i);
  }
}

// The sums that threads have over some of the positions, added up: Σ e^(score - top) v of one query.
SPIKECONV_DEVICE void write_sums(const float (&own)[kWordInputs], int words, int head_dim, float* to) {
  __shared__ float sums[kThreads * kWordInputs];
  const int width = words * kWordInputs, lanes = kThreads / words;
  __syncthreads();  // the query before this one has been read
  for (int i = 0; i < kWordInputs; ++i) sums[int(threadIdx.x) * kWordInputs + i] = own[i];
  __syncthreads();
  for (int input = int(threadIdx.x); input < head_dim; input += kThreads) {
    float sum = 0.0f;
    for (int lane = 0; lane < lanes; ++lane) sum += sums[lane * width + input];
    to[input] = sum;
  }
}

// Blocks with the same keys are neighbours: they find them in the L2 cache.
SPIKECONV_DEVICE Work work_of(const AttendJob& job, const Plan& plan, int block_queries) {
  const int block = int(blockIdx.x), pair = block / plan.query_blocks / plan.splits;
  Work work{};
  work.batch = pair / job.key_heads;
  work.key_head = pair % job.key_heads;
  work.first_query = block % plan.query_blocks * block_queries;
  work.queries = least_of(block_queries, job.queries - work.first_query);
  work.split = block / plan.query_blocks % plan.splits;
  work.first = work.split * plan.split_keys;
  work.last = work.first + least_of(plan.split_keys, job.length - work.first);
  work.query = int64_t(pair) * job.queries + work.first_query;
  return work;
}

// Queries as whole words of floats; zeros behind their inputs and for those that do not exist.
SPIKECONV_DEVICE void load_queries(const AttendJob& job, const Work& work, int width, int count, float* to) {
  const int head_dim = job.shape.head_dim;
  for (int i = int(threadIdx.x); i < count * width; i += kThreads) {
    const int n = i / width, input = i % width;
    const bool exists = n < work.queries && input < head_dim;
    to[i] = exists ? load_float(job.query, job.query_dtype, (work.query + n) * head_dim + input) : 0.0f;
  }
}

SPIKECONV_DEVICE Running start(const AttendJob& job, const Work& work, int n) {
  const int query = work.first_query + least_of(n, work.queries - 1);  // one that does not exist may read any mask
  const int head = work.key_head * (job.queries / job.tokens) + query / job.tokens;
  return {bfloat_to_float(0xFF80), 0.0f, 0.0f,
          work.batch * job.mask_strides[0] + head * job.mask_strides[1] + query % job.tokens * job.mask_strides[2]};
}

// Thread t adds up word t % words over the positions t / words, t / words + kThreads / words, …
template <int kQueries, Path path>
__global__ void __launch_bounds__(kThreads, kQueries > 4 ? 3 : 4)
attend_kernel(SPIKECONV_PARAMETER AttendJob job, SPIKECONV_PARAMETER Plan plan) {
  __shared__ float weights[kQueries][kThreads];
  __shared__ Running running[kQueries];
  const RowShape shape = job.shape;
  const Work work = work_of(job, plan, kQueries);
  const int t = int(threadIdx.x), words = row_words(shape), lanes = kThreads / words, word = t % words;
  float* queries = dynamic_shared<float>();
  uint8_t* keys = reinterpret_cast<uint8_t*>(queries + kQueries * plan.width);
  uint8_t* values = keys + plan.tile_keys * plan.pitch;
  load_queries(job, work, plan.width, kQueries, queries);
  if (t < kQueries) running[t] = start(job, work, t);

  float acc[kQueries][kWordInputs] = {};
  for (int at = work.first; at < work.last; at += plan.tile_keys) {
    const int count = least_of(plan.tile_keys, work.last - at);
    copy_rows(job.keys, work, at, count, row_bytes(shape), keys, plan.pitch);
    copy_rows(job.values, work, at, count, row_bytes(shape), values, plan.pitch);
    copy_commit();
    copy_wait<0>();
    __syncthreads();

    if (t < count) {
      float score[kQueries] = {};
      score_key<kQueries, path>(keys + t * plan.pitch, shape, queries, plan.width, score);
#pragma unroll
      for (int n = 0; n < kQueries; ++n) weights[n][t] = score[n];
    }
    __syncthreads();
    for (int n = t / kWarp; n < kQueries; n += kWarps) weigh(job, at, count, weights[n], running[n]);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kQueries; ++n)
#pragma unroll
      for (int i = 0; i < kWordInputs; ++i) acc[n][i] *= running[n].factor;
    for (int key = t / words; key < count && t < lanes * words; key += lanes) {
      const uint8_t* row = values + key * plan.pitch;
      if constexpr (path == Path::words)
        add_word(row, shape, word, &weights[0][key], kThreads, acc);
      else
        add_inputs<kQueries, path>(row, shape, word, &weights[0][key], kThreads, acc);
    }
    __syncthreads();  // the next tile overwrites this one
  }

  const int part_floats = shape.head_dim + 2;
#pragma unroll
  for (int n = 0; n < kQueries; ++n) {
    if (n >= work.queries) continue;
    float* part = job.parts + ((work.query + n) * plan.splits + work.split) * part_floats;
    write_sums(acc[n], words, shape.head_dim, part);
    if (t == 0) {
      part[shape.head_dim] = running[n].top;
      part[shape.head_dim + 1] = running[n].sum;
    }
  }
}

// One query a block.
__global__ void __launch_bounds__(kThreads) combine_kernel(SPIKECONV_PARAMETER AttendJob job, int splits) {
  __shared__ float weights[kMaxSplits];
  const int head_dim = job.shape.head_dim, part_floats = head_dim + 2, t = int(threadIdx.x);
  const float* parts = job.parts + int64_t(blockIdx.x) * splits * part_floats;
  float top = bfloat_to_float(0xFF80), sum = 0.0f;
  for (int s = 0; s < splits; ++s) top = most(top, parts[s * part_floats + head_dim]);
  if (t < splits) weights[t] = exponential(parts[t * part_floats + head_dim] - base_of(top));
  __syncthreads();
  for (int s = 0; s < splits; ++s) sum += weights[s] * parts[s * part_floats + head_dim + 1];
  for (int input = t; input < head_dim; input += kThreads) {
    float y = 0.0f;
    for (int s = 0; s < splits; ++s) y += weights[s] * parts[s * part_floats + input];
    job.output[int64_t(blockIdx.x) * head_dim + input] = y / sum;
  }
}

int64_t all_queries(const AttendJob& job) { return int64_t(job.batch) * job.key_heads * job.queries; }

// A function of the sizes only, so that results do not depend on the GPU.
int split_keys(const AttendJob& job) {
  if (job.queries > kSplitQueries) return job.length;
  const int64_t least = ceil_div(job.length, kMaxSplits * kThreads) * kThreads;
  return least < kLeastSplit ? kLeastSplit : int(least);
}

int splits(const AttendJob& job) { return int(ceil_div(job.length, split_keys(job))); }

Plan plan_of(const AttendJob& job, int block_queries) {
  Plan plan{};
  plan.query_blocks = int(ceil_div(job.queries, block_queries));
  plan.split_keys = split_keys(job);
  plan.splits = splits(job);
  // An odd number of words: the same word of neighbouring rows lies in different banks.
  plan.pitch = int(ceil_div(row_bytes(job.shape), 4) | 1) * 4;
  for (plan.tile_keys = kThreads; 2 * plan.tile_keys * plan.pitch > kTileBytes;) plan.tile_keys /= 2;
  plan.width = row_words(job.shape) * kWordInputs;
  return plan;
}

template <int kQueries, Path path>
void run(const AttendJob& job, void* stream) {
  const Plan plan = plan_of(job, kQueries);
  const int64_t blocks = int64_t(job.batch) * job.key_heads * plan.query_blocks * plan.splits;
  const int64_t shared = int64_t(kQueries) * plan.width * 4 + 2 * int64_t(plan.tile_keys) * plan.pitch;
  launch(attend_kernel<kQueries, path>, blocks, kThreads, shared, stream, job, plan);
  launch(combine_kernel, all_queries(job), kThreads, 0, stream, job, plan.splits);
}

}  // namespace

int64_t attend_workspace(const AttendJob& job) { return all_queries(job) * splits(job) * (job.shape.head_dim + 2); }

void attend(const AttendJob& job, void* stream) {
  const bool groups_are_words = job.shape.group % kWordInputs == 0 || job.shape.group == job.shape.head_dim;
  if (job.unfold)
    run<4, Path::spikes>(job, stream);
  else if (!groups_are_words)
    run<4, Path::inputs>(job, stream);
  else if (job.queries == 1)
    run<1, Path::words>(job, stream);
  else if (job.queries <= 4)
    run<4, Path::words>(job, stream);
  else
    run<8, Path::words>(job, stream);
}

}  // namespace spikeconv::cuda
