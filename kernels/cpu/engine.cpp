#include "engine.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "engine_memory.h"
#include "engine_rows.h"
#include "engine_steps.h"

namespace spikeconv {
namespace {

// Attention of one forward, cut into parts that depend on shapes alone.
struct Task {
  int64_t sequence, key_head;
  FloatAttendPart part;
  int64_t record;      // where its records begin, in records
  int64_t key_parts;   // of the same rows; the first of them has the merge
  bool merges;
};

class Forward : Steps {
 public:
  Forward(const ModelPlan& m, const LayerPlan* layers, std::span<const Sequence> sequences, const int64_t* tokens,
          int64_t count, const Cache& cache, const Stretch& stretch, double* seconds)
      : Steps(count, seconds), m_(m), layers_(layers), sequences_(sequences), tokens_(tokens), cache_(cache),
        stretch_(stretch) {}

  void run(std::span<const int64_t> wanted, bool logits, float* out) {
    if (!m_.rows.used()) cut();
    static thread_local Scratch memory;
    Room measure(nullptr);
    Workspace(measure, m_, count_, records_ * (m_.head_dim + kRecordExtra));
    Room room(static_cast<char*>(memory.bytes(measure.used() + 64)));
    Workspace w(room, m_, count_, records_ * (m_.head_dim + kRecordExtra));
    const size_t bytes = size_t(count_ * m_.hidden) * sizeof(float);
    if (stretch_.first > 0)
      std::memcpy(w.x, stretch_.stream, bytes);
    else
      each_token(m_.hidden, [&](int64_t t) {
        float_.widen(m_.embedding.data, m_.embedding.dtype, tokens_[t] * m_.embedding.stride, m_.hidden,
                     w.x + t * m_.hidden);
      });
    lap(Part::rest);
    for (int64_t l = stretch_.first; l < stretch_.last; ++l) layer(l, w);
    if (stretch_.stream) std::memcpy(stretch_.stream, w.x, bytes);
    if (stretch_.last == m_.layers)
      finish(m_, wanted, logits, w.final, out, [&](int64_t row, float* to) {
        float* memory = static_cast<float*>(scratch().bytes(2 * m_.hidden * 4 + 64));
        float_.normalize(w.x + row * m_.hidden, m_.hidden, m_.norm, m_.norm_epsilon, to, memory);
      });
  }

 private:
  void layer(int64_t index, Workspace& w) {
    const LayerPlan& plan = layers_[index];
    const int64_t width = trace_width(m_), inner = m_.intermediate;
    float* trace = stretch_.trace ? stretch_.trace + (index - stretch_.first) * count_ * width : nullptr;
    int64_t noted = 0;
    const auto see = [&](const float* rows, int64_t size) { note(trace, width, noted, rows, size); };
    see(w.x, m_.hidden);
    encode(plan.qkv, w.x, w);
    multiply(plan.qkv, w.encoded, std::array{w.query, w.key, w.value});
    see(w.query, m_.query_width());
    see(w.key, m_.key_width());
    see(w.value, m_.key_width());
    remember(plan, index, w);
    if (m_.rows.used())
      attend_rows(m_, sequences_, cache_, index, plan.window, w.query, w.attended);
    else
      attend(plan, index, w);
    lap(Part::attention);
    see(w.attended, m_.query_width());
    encode(plan.output, w.attended, w);
    multiply(plan.output, w.encoded, std::array{w.other});
    see(w.other, m_.hidden);
    add(w.x, w.other, m_.hidden);
    see(w.x, m_.hidden);
    encode(plan.gate_up, w.x, w);
    multiply(plan.gate_up, w.encoded, std::array{w.gate, w.up});
    see(w.gate, inner);
    see(w.up, inner);
    encode_gated(plan.down, w);
    see(w.gate, inner);
    multiply(plan.down, w.encoded, std::array{w.other});
    see(w.other, m_.hidden);
    add(w.x, w.other, m_.hidden);
  }

  void encode(const GroupPlan& group, const float* x, Workspace& w) {
    run_encode(job_of(group, x, w.encoded), count_);
    lap(Part::encode);
  }

  // silu(gate) · up → counts, a token at a time; what was encoded replaces the gates.
  void encode_gated(const GroupPlan& group, Workspace& w) {
    const EncodeJob job = job_of(group, w.gate, w.encoded);
    const int64_t n = m_.intermediate;
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 16 / n), [&](int64_t begin, int64_t end) {
      float* memory = static_cast<float*>(scratch().bytes(encode_scratch(job) * 4));
      for (int64_t t = begin; t < end; ++t) {
        float* gate = w.gate + t * n;
        float_.gate(gate, w.up + t * n, n, gate);
        isa_.encode(job, t, t + 1, memory);
      }
    });
    lap(Part::encode);
  }

  char* state(void* base, int64_t layer, int64_t slot, int64_t key_head, int64_t index) const {
    return cache_.at(base, m_, layer, slot, key_head, index);
  }

  // A key or value into the cache.
  void store(const float* x, char* to, float* memory) const {
    if (m_.rows.used())
      encode_row(m_.rows, x, to, memory);
    else
      float_.narrow(x, m_.head_dim, cache_.dtype, to);
  }

  // Turns queries and keys, and puts keys and values into the cache. Where those are counts, queries are rotated as well.
  void remember(const LayerPlan& plan, int64_t layer, Workspace& w) {
    const int64_t dim = m_.head_dim;
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 8 / (m_.query_width() + 2 * m_.key_width())),
          [&](int64_t begin, int64_t end) {
            float* memory = static_cast<float*>(scratch().bytes(row_scratch(m_) * 4));
            for (int64_t t = begin; t < end; ++t) {
              const Sequence& s = sequence_of(t);
              const int64_t place = t - s.begin;
              const float *cos = m_.cos + (s.position + place) * dim, *sin = m_.sin + (s.position + place) * dim;
              for (int64_t h = 0; h < m_.heads; ++h) {
                float* q = w.query + t * m_.query_width() + h * dim;
                if (plan.query_norm) float_.normalize(q, dim, plan.query_norm, plan.norm_epsilon, q, memory);
                float_.rotary(q, cos, sin, dim);
                if (m_.rows.used()) rotate_head(m_.rows.rotation, q, memory);
              }
              for (int64_t h = 0; h < m_.key_heads; ++h) {
                float* k = w.key + t * m_.key_width() + h * dim;
                if (plan.key_norm) float_.normalize(k, dim, plan.key_norm, plan.norm_epsilon, k, memory);
                float_.rotary(k, cos, sin, dim);
                store(k, state(cache_.keys, layer, s.slot, h, s.row() + place), memory);
                const float* v = w.value + t * m_.key_width() + h * dim;
                store(v, state(cache_.values, layer, s.slot, h, s.row() + place), memory);
              }
            }
          });
  }

  const Sequence& sequence_of(int64_t token) const {
    const auto after = std::upper_bound(sequences_.begin(), sequences_.end(), token,
                                        [](int64_t t, const Sequence& s) { return t < s.begin; });
    return *(after - 1);
  }

  FloatAttendJob attend_job(const LayerPlan& plan, int64_t layer, const Task& task, const Workspace& w) const {
    const Sequence& s = sequences_[size_t(task.sequence)];
    const int64_t dim = m_.head_dim, repeats = m_.heads / m_.key_heads;
    return {w.query + s.begin * m_.query_width() + task.key_head * repeats * dim,
            m_.query_width(),
            {state(cache_.keys, layer, s.slot, task.key_head, 0), cache_.dtype, dim},
            {state(cache_.values, layer, s.slot, task.key_head, 0), cache_.dtype, dim},
            s.at, s.first, s.fork, plan.window, repeats, dim, m_.scaling};
  }

  // Every key head of every sequence, in pieces of queries, and of keys where there are few queries.
  void cut() {
    const int64_t repeats = m_.heads / m_.key_heads;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& s = sequences_[i];
      const int64_t rows = s.count * repeats;
      for (int64_t h = 0; h < m_.key_heads; ++h)
        for (int64_t row = 0, end; row < rows; row = end) {
          end = std::min(rows, row + kMostRows);
          if (end < rows && rows - end <= kFewQueryRows) end -= kFewQueryRows;  // a rest of few: of other bits
          const int64_t keys = s.at + (end - 1) / repeats + 1;
          const int64_t step = rows <= kFewQueryRows ? kFewKeys : std::max<int64_t>(keys - s.first, 1);
          const int64_t parts = ceil_div(std::max<int64_t>(keys - s.first, 1), step);
          for (int64_t p = 0; p < parts; ++p) {
            const int64_t from = s.first + p * step;
            tasks_.push_back({int64_t(i), h, {row, end, from, std::min(keys, from + step)}, records_, parts, p == 0});
            records_ += end - row;
          }
        }
    }
    // The longest first, so that no thread is left with one at the end.
    if (sequences_.size() > 1 || count_ > 1)
      std::stable_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) { return size(a) > size(b); });
  }

  static int64_t size(const Task& t) { return t.part.rows() * (t.part.key_end - t.part.key_begin); }

  void attend(const LayerPlan& plan, int64_t layer, Workspace& w) {
    const int64_t dim = m_.head_dim, record = dim + kRecordExtra, repeats = m_.heads / m_.key_heads;
    const int64_t count = int64_t(tasks_.size());
    int64_t work = 0;
    for (const Task& t : tasks_) work += size(t) * dim * 2;
    const int64_t grain = std::max<int64_t>(1, kWorkPerThread / 8 / std::max<int64_t>(1, work / std::max<int64_t>(count, 1)));
    std::atomic<int64_t> next{0};
    const auto some = [&](int64_t, int64_t) {
      float* memory = static_cast<float*>(scratch().bytes(float_attend_scratch(dim) * 4));
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        float_.attend(attend_job(plan, layer, tasks_[size_t(i)], w), tasks_[size_t(i)].part,
                      w.records + tasks_[size_t(i)].record * record, memory);
    };
    share(0, std::min(thread_count(), ceil_div(count, grain)), 1, some);
    share(0, count, std::max<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Task& t = tasks_[size_t(i)];
        if (!t.merges) continue;
        const Sequence& s = sequences_[size_t(t.sequence)];
        const int64_t rows = t.part.rows();
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t row = t.part.row_begin + r, token = s.begin + row / repeats;
          float* to = w.attended + token * m_.query_width() + (t.key_head * repeats + row % repeats) * dim;
          isa_.merge(w.records + (t.record + r) * record, rows * record, t.key_parts, dim, to);
        }
      }
    });
  }

  const ModelPlan& m_;
  const LayerPlan* layers_;
  std::span<const Sequence> sequences_;
  const int64_t* tokens_;
  const Cache& cache_;
  const Stretch& stretch_;
  std::vector<Task> tasks_;
  int64_t records_ = 0;
};

}  // namespace

void run_forward(const ModelPlan& model, const LayerPlan* layers, std::span<const Sequence> sequences,
                 const int64_t* tokens, int64_t count, const Cache& cache, const Stretch& stretch,
                 std::span<const int64_t> wanted, bool logits, float* out, double* seconds) {
  hold_threads(
      [&] { Forward(model, layers, sequences, tokens, count, cache, stretch, seconds).run(wanted, logits, out); });
}

}  // namespace spikeconv
