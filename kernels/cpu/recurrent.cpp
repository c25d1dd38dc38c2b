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
  std::array<Encoded, 4> encoded;  // of inputs that are made of the same tokens
  float *gate, *more, *low, *lows;  // RWKV-6's: more [5][tokens][hidden], lows [5][tokens][mix_rank]

  RecurrentWorkspace(Room& room, const RecurrentPlan& m, int64_t tokens)
      : encoded{Encoded(room, tokens, std::max(m.hidden, m.intermediate)), Encoded(room, tokens, m.hidden),
                Encoded(room, tokens, m.hidden), Encoded(room, tokens, m.heads ? m.hidden : 0)} {
    for (float** rows : {&x, &normed, &mixed, &key, &value, &receptance, &other, &final})
      *rows = room.take<float>(tokens * m.hidden);
    inner = room.take<float>(tokens * m.intermediate);
    if (!m.heads) return;
    gate = room.take<float>(tokens * m.hidden);
    more = room.take<float>(5 * tokens * m.hidden);
    low = room.take<float>(tokens * std::max(5 * m.mix_rank, m.decay_rank));
    lows = room.take<float>(5 * tokens * m.mix_rank);
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
    if (stretch_.last == m_.layers)
      finish(m_, wanted, logits, w.final, out,
             [&](int64_t row, float* to) { normalize(m_.last, w.x + row * m_.hidden, to); });
  }

 private:
  enum { kChannelShift, kTimeShift, kNumerator, kDenominator, kExponent, kMatrices = kNumerator };

  void normalize(const LayerNorm& norm, const float* x, float* out) const {
    float_.layer_norm(x, m_.hidden, norm.weight, norm.bias, norm.epsilon, out);
  }

  void layer(int64_t index, RecurrentWorkspace& w) {
    const RecurrentLayer& plan = layers_[index];
    const int64_t n = m_.hidden;
    trace_ = stretch_.trace ? stretch_.trace + (index - stretch_.first) * count_ * trace_width(m_) : nullptr;
    noted_ = 0;
    see(w.x, n);
    if (m_.heads)
      mix_heads(plan, index, w);
    else
      mix_channels(plan, index, w);
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

  // RWKV-4's time mixing, up to what its output projection reads.
  void mix_channels(const RecurrentLayer& plan, int64_t index, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden;
    encode_shifted(plan.first, std::array{&plan.key, &plan.value, &plan.receptance}, index, kTimeShift, w);
    multiply(plan.key.group, w.encoded[0], std::array{w.key});
    multiply(plan.value.group, w.encoded[1], std::array{w.value});
    multiply(plan.receptance.group, w.encoded[2], std::array{w.receptance});
    see(w.key, n);
    see(w.value, n);
    see(w.receptance, n);
    recur(plan, index, w);
    encode(plan.output, w.receptance, n, w.encoded[0], [](float*) {});
  }

  // RWKV-6's.
  void mix_heads(const RecurrentLayer& plan, int64_t index, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden, size = m_.head_size();
    float* decay = w.mixed;
    normalize_all(plan.first, w);
    mix_by_data(plan.data, index, w);
    decide_decay(plan, w, decay);
    const std::array roles{&plan.key, &plan.value, &plan.receptance, &plan.gate};
    for (size_t r = 0; r < roles.size(); ++r)
      encode(*roles[r], w.more + (int64_t(r) + 1) * count_ * n, n, w.encoded[r], [](float*) {});
    remember(kTimeShift, index, w);
    const std::array outputs{w.key, w.value, w.receptance, w.gate};
    for (size_t r = 0; r < roles.size(); ++r) multiply(roles[r]->group, w.encoded[r], std::array{outputs[r]});
    for (const float* rows : outputs) see(rows, n);
    recur_heads(plan, index, decay, w);
    see(w.other, n);
    encode(plan.output, w.other, n, w.encoded[0], [&](float* row) {
      const LayerNorm& norm = plan.heads;
      for (int64_t h = 0; h < n; h += size)
        float_.layer_norm(row + h, size, norm.weight + h, norm.bias + h, norm.epsilon, row + h);
      float_.gate(w.gate + (row - w.other), row, n, row);
    });
  }

  // What decay (the first of `more`), key, value, receptance and gate are computed of.
  void mix_by_data(const DataMixing& data, int64_t layer, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden, rank = m_.mix_rank;
    each_token(n, [&](int64_t t) {
      float_.blend(before(kTimeShift, layer, t, w), w.normed + t * n, data.first, n, w.mixed + t * n);
    });
    run_head(data.down, nullptr, w.mixed, count_, n, 5 * rank, w.low);
    each_token(5 * rank, [&](int64_t t) {
      float_.tanh(w.low + t * 5 * rank, 5 * rank);
      for (int64_t r = 0; r < 5; ++r)
        std::copy_n(w.low + (5 * t + r) * rank, rank, w.lows + (r * count_ + t) * rank);
    });
    for (int64_t r = 0; r < 5; ++r) {
      FloatRows up = data.up;
      up.data = static_cast<const float*>(up.data) + r * n * rank;
      run_head(up, nullptr, w.lows + r * count_ * rank, count_, rank, n, w.more + r * count_ * n);
    }
    each_token(5 * n, [&](int64_t t) {
      for (int64_t r = 0; r < 5; ++r) {
        float* more = w.more + (r * count_ + t) * n;
        float_.blend_by(before(kTimeShift, layer, t, w), w.normed + t * n, data.mixes + r * n, more, n, more);
      }
    });
    lap(Part::rest);
  }

  // What of the state is left behind each token.
  void decide_decay(const RecurrentLayer& plan, RecurrentWorkspace& w, float* decay) {
    const int64_t n = m_.hidden, rank = m_.decay_rank;
    see(w.more, n);
    run_head(plan.data.decay_down, nullptr, w.more, count_, n, rank, w.low);
    each_token(rank, [&](int64_t t) { float_.tanh(w.low + t * rank, rank); });
    run_head(plan.data.decay_up, plan.decay, w.low, count_, rank, n, decay);
    each_token(n, [&](int64_t t) { float_.decay(decay + t * n, n); });
    see(decay, n);
    lap(Part::rest);
  }

  void recur_heads(const RecurrentLayer& plan, int64_t layer, const float* decay, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden, size = m_.head_size(), units = m_.heads * int64_t(texts_.size());
    const int64_t work = std::max<int64_t>(1, 2 * count_ * n * size / units);
    share(0, units, std::max<int64_t>(1, kWorkPerThread / 4 / work), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const Text& text = texts_[size_t(unit / m_.heads)];
        const int64_t first = unit % m_.heads * size, at = text.begin * n + first;
        float_.wkv_matrix({w.receptance + at, w.key + at, w.value + at, decay + at, w.other + at, n, text.count, size,
                           plan.bonus + first, state_.at(kMatrices, n * size, layer, text.slot) + first * size});
      }
    });
    lap(Part::attention);
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
    normalize_all(norm, w);
    std::array<EncodeJob, count> jobs;
    for (size_t r = 0; r < count; ++r) jobs[r] = job_of(roles[r]->group, w.mixed, w.encoded[r]);
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 16 / int64_t(count) / n), [&](int64_t begin, int64_t end) {
      float* memory = static_cast<float*>(scratch().bytes(encode_scratch(jobs[0]) * 4));
      for (int64_t t = begin; t < end; ++t) {
        for (size_t r = 0; r < count; ++r) {
          float_.blend(before(part, layer, t, w), w.normed + t * n, roles[r]->mix, n, w.mixed + t * n);
          encode_row(*roles[r], jobs[r], w.mixed + t * n, n, t, noted_ + int64_t(r) * n, memory);
        }
      }
    });
    if (trace_) noted_ += int64_t(count) * n;
    remember(part, layer, w);
    lap(Part::encode);
  }

  void normalize_all(const LayerNorm& norm, RecurrentWorkspace& w) {
    const int64_t n = m_.hidden;
    each_token(n, [&](int64_t t) { normalize(norm, w.x + t * n, w.normed + t * n); });
    lap(Part::rest);
    see(w.normed, n);
  }

  // The norm of the token before.
  const float* before(int part, int64_t layer, int64_t t, const RecurrentWorkspace& w) const {
    const Text& text = text_of(t);
    return t == text.begin ? state_.at(part, m_.hidden, layer, text.slot) : w.normed + (t - 1) * m_.hidden;
  }

  // The norms of the last tokens, for those that come behind.
  void remember(int part, int64_t layer, const RecurrentWorkspace& w) {
    const int64_t n = m_.hidden;
    for (const Text& text : texts_)
      std::copy_n(w.normed + (text.begin + text.count - 1) * n, n, state_.at(part, n, layer, text.slot));
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
  hold_threads(
      [&] { RecurrentForward(model, layers, texts, tokens, count, state, stretch, seconds).run(wanted, logits, out); });
}

}  // namespace spikeconv
