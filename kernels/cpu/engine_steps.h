// What forwards of all kinds of models do between their floats: encode, multiply, and note where the time went.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <span>

#include "dispatch.h"
#include "engine.h"
#include "engine_memory.h"
#include "parallel.h"

namespace spikeconv {

class Steps {
 protected:
  Steps(int64_t count, double* seconds)
      : count_(count), isa_(kernels()), float_(*isa_.engine), seconds_(seconds), last_(Clock::now()) {}

  void lap(Part part) {
    const Clock::time_point now = Clock::now();
    seconds_[int(part)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

  // f(t) for every token, each of so much work.
  template <class F>
  void each_token(int64_t work, const F& f) {
    share(0, count_, std::max<int64_t>(1, kWorkPerThread / 16 / std::max<int64_t>(work, 1)),
          [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; ++t) f(t);
          });
  }

  static EncodeJob job_of(const GroupPlan& group, const float* x, const Encoded& to) {
    EncodeJob job = group.job;
    job.x = x;
    job.dtype = Dtype::float32;
    job.counts = to.counts;
    job.scale = to.scale;
    job.zero = to.zero;
    return job;
  }

  // The outputs of a group's linears for what was encoded.
  template <size_t outputs>
  void multiply(const GroupPlan& group, const Encoded& in, const std::array<float*, outputs>& to) {
    std::array<Member, outputs> members;
    for (size_t i = 0; i < outputs; ++i) {
      members[i] = group.members[i];
      Output& output = members[i].output;
      output.data = to[i];
      output.dtype = Dtype::float32;
      output.scale = in.scale;
      output.zero = group.job.range.symmetric ? nullptr : in.zero;
    }
    run_products({in.counts, count_, group.job.transform.size, group.job.wide}, group.products, members);
    lap(Part::products);
  }

  // x += other [tokens][width]
  void add(float* x, const float* other, int64_t width) {
    each_token(width, [&](int64_t t) { float_.add(x + t * width, other + t * width, width); });
    lap(Part::rest);
  }

  // Of some rows what the head reads, written by `normalize(row, to)`, into `out`; or logits, by way of `read`.
  template <class Model, class F>
  void finish(const Model& m, std::span<const int64_t> wanted, bool logits, float* read, float* out, const F& normalize) {
    const int64_t rows = int64_t(wanted.size()), n = m.hidden;
    float* to = logits ? read : out;
    share(0, rows, std::max<int64_t>(1, kWorkPerThread / 16 / n), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) normalize(wanted[size_t(i)], to + i * n);
    });
    lap(Part::rest);
    if (!logits) return;
    run_head(m.head, m.head_bias, read, rows, n, m.vocabulary, out);
    lap(Part::head);
  }

  // A column of a trace [tokens][stride]: rows of `width` numbers, for those who compare.
  void note(float* trace, int64_t stride, int64_t& at, const float* rows, int64_t width) const {
    if (!trace) return;
    for (int64_t t = 0; t < count_; ++t) std::copy_n(rows + t * width, width, trace + t * stride + at);
    at += width;
  }

  int64_t count_;  // tokens
  const Kernels& isa_;
  const EngineKernels& float_;

 private:
  using Clock = std::chrono::steady_clock;
  double* seconds_;
  Clock::time_point last_;
};

}  // namespace spikeconv
