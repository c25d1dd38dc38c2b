// Rows of counts: shares their encoding and attention out among threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <span>
#include <vector>

#include "dispatch.h"
#include "parallel.h"
#include "run.h"

namespace spikeconv {
namespace {

constexpr int64_t kSplitQueries = 64;  // of a key head: up to here keys are shared out too

// What attention is cut into. It depends on shapes alone, so that the bits do not depend on the number of threads.
struct Cut {
  int64_t queries, keys;  // of a part at most
  int64_t query_parts, key_parts;
  int64_t begin;          // its first part among those of all jobs
  int64_t records;        // where its records begin, if keys are shared out: [heads][query parts][key parts][queries]
  bool splits() const { return key_parts > 1; }
};

// Parts of queries are of one size, give or take one: what is left of many would be few queries (`attend_few`), whose
// scores there is room for only where keys are shared out too.
Cut cut_of(const AttendJob& job) {
  const int64_t query_parts = ceil_div(job.queries(), kMostQueries);
  const int64_t keys = job.queries() <= kSplitQueries ? kMostFewKeys : std::max<int64_t>(job.length, 1);
  const int64_t key_parts = std::max<int64_t>(1, ceil_div(job.length, keys));
  return {ceil_div(job.queries(), query_parts), keys, query_parts, key_parts, 0, 0};
}

// Keys that none of the part's queries sees are left out, at the beginning by whole tiles: what is computed of the
// others does not depend on that.
AttendPart part_of(const AttendJob& job, const Cut& cut, int64_t index) {
  const int64_t keys = index % cut.key_parts, queries = index / cut.key_parts % cut.query_parts;
  const int64_t head = index / cut.key_parts / cut.query_parts, first = keys * cut.keys;
  AttendPart part{head / job.key_heads,
                  head % job.key_heads,
                  job.queries() * queries / cut.query_parts,
                  job.queries() * (queries + 1) / cut.query_parts,
                  first,
                  std::min(job.length, first + cut.keys)};
  const int64_t hidden = std::max<int64_t>(0, job.low(part.query_begin) - first) / kTileKeys * kTileKeys;
  part.key_end = std::max(first, std::min(part.key_end, job.high(part.query_end - 1) + 1));
  part.key_begin = std::min(first + hidden, part.key_end);
  return part;
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
void unfold_query(const AttendJob& job, int64_t batch, int64_t key_head, int64_t query) {
  const int64_t n = job.shape.head_dim, at = job.query_at(batch, key_head, query);
  const float* q = static_cast<const float*>(job.query) + at;
  float* output = job.output + at;
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

// The outputs of a job whose keys were shared out; all its queries are in one part then.
void merge_parts(const AttendJob& job, const Cut& cut, const float* records) {
  const Kernels& isa = kernels();
  const int64_t n = job.shape.head_dim, record = n + kRecordExtra, part = cut.queries * record;
  const int64_t rows = job.batch * job.key_heads * job.queries();
  share(0, rows, std::max<int64_t>(1, kWorkPerThread / (cut.key_parts * record)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / job.queries(), query = row % job.queries();
      isa.merge(records + head * cut.key_parts * part + query * record, part, cut.key_parts, n,
                job.output + job.query_at(head / job.key_heads, head % job.key_heads, query));
    }
  });
}

}  // namespace

void run_encode_rows(const RowsJob& job, int64_t rows) {
  const Kernels& isa = kernels();
  const int64_t n = job.shape.head_dim, work = std::max<int64_t>(1, 16 * n * (1 + job.ratio_count));
  share(0, rows, std::max<int64_t>(1, kWorkPerThread / work), [&](int64_t begin, int64_t end) {
    isa.encode_rows(job, begin, end, static_cast<float*>(scratch().bytes(rows_scratch(job) * 4)));
  });
}

void run_attend(std::span<const AttendJob> jobs) {
  const Kernels& isa = kernels();
  static thread_local Scratch split_memory;
  static thread_local std::vector<Cut> own_cuts;
  own_cuts.clear();
  int64_t parts = 0, records_size = 0, work = 0;
  for (const AttendJob& job : jobs) {
    Cut cut = cut_of(job);
    cut.begin = parts;
    cut.records = records_size;
    const int64_t count = job.batch * job.key_heads * cut.query_parts * cut.key_parts;
    parts += count;
    if (cut.splits()) records_size += count * cut.queries * (job.shape.head_dim + kRecordExtra);
    work += 2 * job.batch * job.key_heads * job.queries() * job.length * job.shape.head_dim;
    own_cuts.push_back(cut);
  }
  const std::span<const Cut> cuts = own_cuts;  // of this thread, for the others
  float* records = static_cast<float*>(split_memory.bytes(records_size * 4));
  // From the last part on: a token sees more keys than those before it, and the longest should not begin at the end.
  std::atomic<int64_t> left{parts};
  on_threads(std::min(threads_for(Pool::current() ? 8 * work : work), parts), [&](int64_t) {
    for (int64_t index; (index = left.fetch_sub(1, std::memory_order_relaxed) - 1) >= 0;) {
      const auto after = std::upper_bound(cuts.begin(), cuts.end(), index,
                                          [](int64_t i, const Cut& c) { return i < c.begin; });
      const Cut& cut = *(after - 1);
      const AttendJob& job = jobs[size_t(after - 1 - cuts.begin())];
      const AttendPart part = part_of(job, cut, index - cut.begin);
      const int64_t record = job.shape.head_dim + kRecordExtra, working = attend_scratch(job.shape, cut.queries);
      float* memory = static_cast<float*>(scratch().bytes((working + cut.queries * record) * 4));
      float* to = cut.splits() ? records + cut.records + (index - cut.begin) * cut.queries * record : memory + working;
      isa.attend(job, part, to, memory);
      for (int64_t r = 0; !cut.splits() && r < part.queries(); ++r)
        isa.merge(to + r * record, record, 1, job.shape.head_dim,
                  job.output + job.query_at(part.batch, part.key_head, part.query_begin + r));
    }
  });
  for (size_t j = 0; j < jobs.size(); ++j) {
    if (cuts[j].splits()) merge_parts(jobs[j], cuts[j], records + cuts[j].records);
  }
}

void run_attend_unfold(const AttendJob& job) {
  share(0, job.batch * job.key_heads * job.queries(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / job.queries();
      unfold_query(job, head / job.key_heads, head % job.key_heads, row % job.queries());
    }
  });
}

}  // namespace spikeconv
