#include "engine_rows.h"

#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace spikeconv {
namespace {

// Rows [begin, end) of x, rotated in place.
void rotate(const Transform& rotation, float* x, int64_t begin, int64_t end, float* memory) {
  EncodeJob job{};
  job.x = job.rotated = x;
  job.dtype = Dtype::float32;
  job.transform = rotation;
  kernels().encode(job, begin, end, memory);
}

RowCache rows_of(void* base, const ModelPlan& m, const Cache& cache, int64_t layer, const Sequence& s) {
  const char* first = cache.at(base, m, layer, s.slot, 0, s.first);
  return {reinterpret_cast<const uint8_t*>(first), 0, cache.capacity * cache.bytes, cache.bytes, {s.fork.key - s.first, s.fork.gap}};
}

}  // namespace

void rotate_head(const Transform& rotation, float* query, float* memory) { rotate(rotation, query, 0, 1, memory); }

void encode_row(const RowPlan& plan, const float* x, char* row, float* memory) {
  RowsJob job{};
  job.x = x;
  job.dtype = Dtype::float32;
  job.transform = plan.rotation;
  job.shape = plan.settings.shape;
  job.range = plan.settings.range();
  job.ratios = plan.settings.ratios;
  job.ratio_count = plan.settings.ratio_count;
  job.rows = reinterpret_cast<uint8_t*>(row);
  kernels().encode_rows(job, 0, 1, memory);
}

void attend_rows(const ModelPlan& m, std::span<const Sequence> sequences, const Cache& cache, int64_t layer,
                 int64_t window, const float* query, float* attended) {
  static thread_local std::vector<AttendJob> jobs;
  jobs.clear();
  int64_t tokens = 0;
  for (const Sequence& s : sequences) {
    AttendJob job{};
    job.query = query + s.begin * m.query_width();
    job.dtype = Dtype::float32;
    job.output = attended + s.begin * m.query_width();
    job.head_stride = m.head_dim;
    job.token_stride = m.query_width();
    job.keys = rows_of(cache.keys, m, cache, layer, s);
    job.values = rows_of(cache.values, m, cache, layer, s);
    job.shape = m.rows.settings.shape;
    job.scaling = m.scaling;
    job.batch = 1;
    job.key_heads = m.key_heads;
    job.repeats = m.heads / m.key_heads;
    job.tokens = s.count;
    job.length = s.at + s.count - s.first;
    job.causal = true;
    job.window = window;
    jobs.push_back(job);
    tokens += s.count;
  }
  run_attend(jobs);
  const float* signs = m.rows.rotation.signs;
  share(0, tokens * m.heads, std::max<int64_t>(1, kWorkPerThread / 16 / m.head_dim), [&](int64_t begin, int64_t end) {
    rotate(m.rows.inverse, attended, begin, end, static_cast<float*>(scratch().bytes(row_scratch(m) * 4)));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < m.head_dim; ++i) attended[row * m.head_dim + i] *= signs[i];
  });
}

}  // namespace spikeconv
