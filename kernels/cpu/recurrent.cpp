#include "recurrent.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "engine_steps.h"

namespace spikeconv {
namespace {

constexpr int64_t kChannels = 64;  // of the recurrence at a time

// What a forward of so many tokens works in.
struct RecurrentWorkspace {
  float *x, *normed, *mixed, *key, *value, *receptance, *other, *inner, *final;
  std::array<Encoded, 3> encoded;  // of inputs that are made of the same tokens

  RecurrentWorkspace(Room& room, const RecurrentPlan& m, int64_t tokens)
      : encoded{Encoded(room, tokens, std::max(m.hidden, m.intermediate)), Encoded(room, tokens, m.hidden),
                Encoded(room, tokens, m.hidden)} {
    for (float** rows : {&x, &normed, &mixed, &key, &value, &receptance, &other, &final})
      *rows = room.take<float>(tokens * m.hidden);
    inner = room.take<float>(tokens * m.intermediate);
  }
};

class RecurrentForward : Steps {
 public:
  RecurrentForward(const RecurrentPlan& m, const RecurrentLayer* layers, std::span<const Text> texts,
                   const int64_t* tokens, int64_t count, const RecurrentState& state, const Stretch& stretch,
                   double* seconds)
      : Steps(count, seconds), m_(m), layers_(layers), texts_(texts), tokens_(tokens), state_(state), stretch_(stretch) {}

  void run(std::span<const int64_t> wanted, bool logits, float* out) {
    static thread_local Scratch memory;
    Room measure(nullptr);
    RecurrentWorkspace(measure, m_, count_);
    Room room(static_cast<char*>(memory.bytes(measure.used() + 64)));
    RecurrentWorkspace w(room, m_, count_);
    const size_t bytes = size_t(count_ * m_.hidden) * sizeof(float);
    if (stretch_.first > 0)
      std::memcpy(w.x, stretch_.stream, bytes);
    else
      each_token(2 * m_.hidden, [&](int64_t t) {
        float* row = w.x + t * m_.hidden;
        float_.widen(m_.embedding.data, m_.embedding.dtype, tokens_[t] * m_.embedding.stride, m_.hidden, row);
        normalize(m_.entry, row, row);
      });
    lap(Part::rest);
    for (int64_t l = stretch_.first; l < stretch_.last; ++l) layer(l, w);
    if (stretch_.stream) std::memcpy(stretch_.stream, w.x, bytes);
    if (stretch_.last == m_.layers) finish(w, wanted, logits, out);
  }

 private:
  enum { kChannelShift, kTimeShift, kNumerator, kDenominator, kExponent };

  void normalize(const LayerNorm& norm, const float* x, float* out) const {
    float_.layer_norm(x, m_.hidden, norm.weight, norm.bias, norm.epsilon, out);
  }

  void layer(int64_t index, RecurrentWorkspace& w) {
    const RecurrentLayer& plan = layers_[index];
    const int64_t n = m_.hidden;
    trace_ = stretch_.trace ? stretch_.trace + (index - stretch_.first) * count_ * trace_width(m_) : nullptr;
    noted_ = 0;
    see(w.x, n);
    encode_shifted(plan.first, std::array{&plan.key, &plan.value, &plan.receptance}, index, kTimeShift, w);
    multiply(plan.key.group, w.encoded[0], std::array{w.key});
    multiply(plan.value.group, w.encoded[1], std::array{w.value});
    multiply(plan.receptance.group, w.encoded[2], std::array{w.receptance});
    see(w.key, n);
    see(w.value, n);
    see(w.receptance, n);
    recur(plan, index, w);
    encode(plan.output, w.receptance, n, w.encoded[0], [](float*) {});
    multiply(plan.output.group, w.encoded[0], std::array{w.other});
    see(w.other, n);
    add(w.x, w.other, n);
    see(w.x, n);
    encode_shifted(plan.second, std::array{&plan.channel_key, &plan.channel_receptance}, index, kChannelShift, w);
    multiply(plan.channel_key.group, w.encoded[0], std::array{w.inner});
    multiply(plan.channel_receptance.group, w.encoded[1], std::array{w.receptance});
    see(w.inner, m_.intermediate);
    see(w.receptance, n);
    encode(plan.channel_value, w.inner, m_.intermediate, w.encoded[0],
           [&](float* row) { float_.relu_squared(row, m_.intermediate); });
    multiply(plan.channel_value.group, w.encoded[0], std::array{w.other});
    see(w.other, n);
    each_token(n, [&](int64_t t) { float_.add_gated(w.x + t * n, w.receptance + t * n, w.other + t * n, n); });
    lap(Part::rest);
  }

  void see(const float* rows, int64_t width) { note(trace_, trace_width(m_), noted_, rows, width); }

  // A row as it is read: told to those who compare, prepared in place, encoded.
  void encode_row(const RolePlan& role, const EncodeJob& job, float* row, int64_t n, int64_t t, int64_t noted,
                  float* memory) const {
    if (trace_) std::copy_n(row, n, trace_ + t * trace_width(m_) + noted);
    float_.prepare(row, role.center, role.balance, n);
    isa_.encode(job, t, t + 1, memory);
  }

  // Rows [tokens][n], of which each is made what is read by `make`.
  template <class F>
  void encode(const RolePlan& role, float* rows, int64_t n, const Encoded& to, const F& make) {
    const EncodeJob job = job_of(role.group, rows, to);
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 16 / n), [&](int64_t begin, int64_t end) {
      float* memory = static_cast<float*>(scratch().bytes(encode_scratch(job) * 4));
      for (int64_t t = begin; t < end; ++t) {
        make(rows + t * n);
        encode_row(role, job, rows + t * n, n, t, noted_, memory);
      }
    });
    if (trace_) noted_ += n;
    lap(Part::encode);
  }

  // The norm of the stream, each token mixed with the one before for each of some linears; the last ones are remembered.
  template <size_t count>
  void encode_shifted(const LayerNorm& norm, const std::array<const RolePlan*, count>& roles, int64_t layer, int part,
                      RecurrentWorkspace& w) {
    const int64_t n = m_.hidden;
    each_token(n, [&](int64_t t) { normalize(norm, w.x + t * n, w.normed + t * n); });
    lap(Part::rest);
    see(w.normed, n);
    std::array<EncodeJob, count> jobs;
    for (size_t r = 0; r < count; ++r) jobs[r] = job_of(roles[r]->group, w.mixed, w.encoded[r]);
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 16 / int64_t(count) / n), [&](int64_t begin, int64_t end) {
      float* memory = static_cast<float*>(scratch().bytes(encode_scratch(jobs[0]) * 4));
      for (int64_t t = begin; t < end; ++t) {
        const Text& text = text_of(t);
        const float* x = w.normed + t * n;
        const float* before = t == text.begin ? state_.at(part, n, layer, text.slot) : x - n;
        for (size_t r = 0; r < count; ++r) {
          float_.blend(before, x, roles[r]->mix, n, w.mixed + t * n);
          encode_row(*roles[r], jobs[r], w.mixed + t * n, n, t, noted_ + int64_t(r) * n, memory);
        }
      }
    });
    if (trace_) noted_ += int64_t(count) * n;
    for (const Text& text : texts_)
      std::copy_n(w.normed + (text.begin + text.count - 1) * n, n, state_.at(part, n, layer, text.slot));
    lap(Part::encode);
  }

  const Text& text_of(int64_t token) const {
    const auto after = std::upper_bound(texts_.begin(), texts_.end(), token,
                                        [](int64_t t, const Text& text) { return t < text.begin; });
    return *(after - 1);
  }

  // Some channels of a text at a time; what comes out replaces the receptance.
  void recur(const RecurrentLayer& plan, int64_t layer, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden, pieces = ceil_div(n, kChannels), units = pieces * int64_t(texts_.size());
    const int64_t work = std::max<int64_t>(1, 32 * count_ * n / units);
    share(0, units, std::max<int64_t>(1, kWorkPerThread / work), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const Text& text = texts_[size_t(unit / pieces)];
        const int64_t at = text.begin * n, first = unit % pieces * kChannels;
        const auto part = [&](int p) { return state_.at(p, n, layer, text.slot); };
        const WkvJob job{w.key + at, w.value + at, w.receptance + at, n, text.count, plan.decay, plan.bonus,
                         part(kNumerator), part(kDenominator), part(kExponent)};
        float_.wkv(job, first, std::min(n, first + kChannels));
      }
    });
    lap(Part::attention);
  }

  void finish(RecurrentWorkspace& w, std::span<const int64_t> wanted, bool logits, float* out) {
    const int64_t rows = int64_t(wanted.size()), n = m_.hidden;
    float* to = logits ? w.final : out;
    share(0, rows, std::max<int64_t>(1, kWorkPerThread / 16 / n), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) normalize(m_.last, w.x + wanted[size_t(i)] * n, to + i * n);
    });
    lap(Part::rest);
    if (!logits) return;
    run_head(m_.head, m_.head_bias, w.final, rows, n, m_.vocabulary, out);
    lap(Part::head);
  }

  const RecurrentPlan& m_;
  const RecurrentLayer* layers_;
  std::span<const Text> texts_;
  const int64_t* tokens_;
  const RecurrentState& state_;
  const Stretch& stretch_;
  float* trace_ = nullptr;  // of the layer that is at work
  int64_t noted_ = 0;
};

}  // namespace

void run_recurrent(const RecurrentPlan& model, const RecurrentLayer* layers, std::span<const Text> texts,
                   const int64_t* tokens, int64_t count, const RecurrentState& state, const Stretch& stretch,
                   std::span<const int64_t> wanted, bool logits, float* out, double* seconds) {
  const Pool::Forward pool(torch::stable::get_num_threads());
  RecurrentForward(model, layers, texts, tokens, count, state, stretch, seconds).run(wanted, logits, out);
}

}  // namespace spikeconv
