// Rows of counts: shares their encoding and attention out among torch's threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.h"
#include "parallel.h"
#include "run.h"

namespace spikeconv {
namespace {

constexpr int64_t kSplitQueries = 64;  // of a key head: up to here keys are shared out too

// What attention is cut into. It depends on shapes alone, so that the bits do not depend on the number of threads.
struct Cut {
  int64_t queries, keys;          // of a part
  int64_t query_parts, key_parts;
};

Cut cut_of(const AttendJob& job) {
  const int64_t queries = std::min(kMostQueries, job.queries());
  const int64_t keys = job.queries() <= kSplitQueries ? kMostFewKeys : std::max<int64_t>(job.length, 1);
  return {queries, keys, ceil_div(job.queries(), queries), std::max<int64_t>(1, ceil_div(job.length, keys))};
}

AttendPart part_of(const AttendJob& job, const Cut& cut, int64_t index) {
  const int64_t keys = index % cut.key_parts, queries = index / cut.key_parts % cut.query_parts;
  const int64_t head = index / cut.key_parts / cut.query_parts;
  return {head / job.key_heads,
          head % job.key_heads,
          queries * cut.queries,
          std::min(job.queries(), (queries + 1) * cut.queries),
          keys * cut.keys,
          std::min(job.length, (keys + 1) * cut.keys)};
}

int64_t attend_grain(const AttendJob& job, const Cut& cut) {
  const int64_t work = 2 * cut.queries * std::min(cut.keys, job.length) * job.shape.head_dim;
  return std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, work));
}

// x, as often as there are spikes, with their sign: k · x without a product.
double add_spikes(double x, int count) {
  double sum = 0;
  for (int step = 0; step < std::abs(count); ++step) count < 0 ? sum -= x : sum += x;
  return sum;
}

double unfolded_score(const float* query, const uint8_t* key, const RowShape& shape) {
  double score = 0;
  for (int64_t g = 0; g < row_groups(shape); ++g) {
    double acc = 0, sum = 0;
    for (int64_t i = g * shape.group; i < (g + 1) * shape.group; ++i) {
      acc += add_spikes(query[i], count_at(key, shape, i));
      sum += query[i];
    }
    score += scale_at(key, shape, g) * (acc - zero_at(key, shape, g) * sum);
  }
  return score;
}

// output += Σ p s (v - z) of one value, its zero point like a spike count too.
void add_unfolded_value(double p, const uint8_t* value, const RowShape& shape, double* output) {
  for (int64_t i = 0; i < shape.head_dim; ++i) {
    const int64_t g = i / shape.group;
    const double weight = p * scale_at(value, shape, g);
    output[i] += add_spikes(weight, count_at(value, shape, i)) - add_spikes(weight, zero_at(value, shape, g));
  }
}

// One query's output. Sums are float64, so that nothing is lost to their number.
void unfold_query(const AttendJob& job, int64_t batch, int64_t key_head, int64_t query, float* output) {
  const int64_t n = job.shape.head_dim;
  const float* q = static_cast<const float*>(job.query) + job.query_at(batch, key_head, query);
  const float* mask = static_cast<const float*>(job.mask.data);
  if (mask) mask += job.mask_at(batch, key_head, query);
  std::vector<double> scores(static_cast<size_t>(job.length)), sums(static_cast<size_t>(n));
  double sum = 0;
  const uint8_t *keys = job.keys.head(batch, key_head), *values = job.values.head(batch, key_head);
  for (int64_t l = 0; l < job.length; ++l) {
    // Rounded to float32 where the mask is added: beside its lowest number every score is the same.
    const double score = unfolded_score(q, keys + l * job.keys.stride, job.shape);
    scores[size_t(l)] = float(score * job.scaling) + (mask ? mask[l] : 0.0f);
  }
  const double peak = *std::max_element(scores.begin(), scores.end());
  for (int64_t l = 0; l < job.length; ++l) {
    const double p = std::exp(scores[size_t(l)] - peak);
    add_unfolded_value(p, values + l * job.values.stride, job.shape, sums.data());
    sum += p;
  }
  for (int64_t d = 0; d < n; ++d) output[d] = float(sums[size_t(d)] / sum);
}

}  // namespace

void run_encode_rows(const RowsJob& job, int64_t rows) {
  const Kernels& isa = kernels();
  const int64_t n = job.shape.head_dim, work = std::max<int64_t>(1, 16 * n * (1 + job.ratio_count));
  share(0, rows, std::max<int64_t>(1, kWorkPerThread / work), [&](int64_t begin, int64_t end) {
    isa.encode_rows(job, begin, end, static_cast<float*>(scratch().bytes(rows_scratch(job) * 4)));
  });
}

void run_attend(const AttendJob& job, float* output) {
  const Kernels& isa = kernels();
  const Cut cut = cut_of(job);
  const int64_t n = job.shape.head_dim, record = n + kRecordExtra, heads = job.batch * job.key_heads;
  const int64_t parts = heads * cut.query_parts * cut.key_parts, own = cut.queries * record;
  const int64_t working = attend_scratch(job.shape, cut.queries);
  const bool split = cut.key_parts > 1;
  static thread_local Scratch split_memory;
  // [heads][queries][key parts], in one part of queries
  float* records = split ? static_cast<float*>(split_memory.bytes(parts * own * 4)) : nullptr;
  share(0, parts, attend_grain(job, cut), [&](int64_t begin, int64_t end) {
    float* memory = static_cast<float*>(scratch().bytes((working + own) * 4));
    for (int64_t index = begin; index < end; ++index) {
      const AttendPart part = part_of(job, cut, index);
      float* to = split ? records + index * own : memory + working;
      isa.attend(job, part, to, memory);
      const int64_t head = index / cut.key_parts / cut.query_parts;
      for (int64_t r = 0; !split && r < part.queries(); ++r)
        isa.merge(to + r * record, record, 1, n, output + (head * job.queries() + part.query_begin + r) * n);
    }
  });
  if (!split) return;
  const int64_t rows = heads * job.queries(), grain = std::max<int64_t>(1, kWorkPerThread / (cut.key_parts * record));
  share(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / job.queries(), query = row % job.queries();
      isa.merge(records + head * cut.key_parts * own + query * record, own, cut.key_parts, n, output + row * n);
    }
  });
}

void run_attend_unfold(const AttendJob& job, float* output) {
  share(0, job.batch * job.key_heads * job.queries(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / job.queries();
      unfold_query(job, head / job.key_heads, head % job.key_heads, row % job.queries(),
                   output + row * job.shape.head_dim);
    }
  });
}

}  // namespace spikeconv
