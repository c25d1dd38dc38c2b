// Products with a float output head, shared out.
#include <cmath>
#include <vector>

#include "dispatch.h"
#include "engine.h"
#include "parallel.h"

namespace spikeconv {

void run_head(const FloatRows& weight, const float* bias, const float* x, int64_t rows, int64_t n, int64_t vocabulary,
              float* logits) {
  if (rows == 0) return;
  const EngineKernels& isa = *kernels().engine;
  const int64_t work = std::max<int64_t>(1, rows * n * kHeadRows);
  share(0, ceil_div(vocabulary, kHeadRows), std::max<int64_t>(1, kWorkPerThread / 4 / work),
        [&](int64_t begin, int64_t end) {
          float* memory = static_cast<float*>(scratch().bytes(head_scratch(n) * 4));
          isa.head(weight, bias, x, rows, n, begin * kHeadRows, std::min(vocabulary, end * kHeadRows), logits,
                   vocabulary, memory);
        });
}

void run_likelihoods(const FloatRows& weight, const float* bias, int64_t vocabulary, const float* x, int64_t rows, int64_t n,
                     std::span<const Asked> asked, double* likelihoods, bool* is_best) {
  if (asked.empty()) return;
  const int64_t pieces = ceil_div(vocabulary, kPieceOutputs), padded = ceil_div(rows, kMostPanel) * kMostPanel;
  std::vector<float> logits(asked.size()), peaks(size_t(pieces * padded)), sums(peaks.size());
  std::vector<int32_t> best(peaks.size());
  const LikelihoodJob job{weight,        bias,          vocabulary,  x,           rows,
                          n,             asked.data(),  asked.data() + asked.size(),  logits.data(), padded,
                          peaks.data(),  sums.data(),   best.data()};
  share(0, pieces, 1, [&](int64_t begin, int64_t end) {
    kernels().engine->likelihoods(job, begin, end, static_cast<float*>(scratch().bytes(head_scratch(n) * 4)));
  });
  std::vector<double> total(size_t(rows), 0.0);  // log Σ e^logit
  std::vector<int32_t> first(size_t(rows), -1);  // of the tokens with the highest logit
  for (int64_t row = 0; row < rows; ++row) {
    double peak = -INFINITY, sum = 0;
    for (size_t at = size_t(row); at < peaks.size(); at += size_t(padded))
      if (double(peaks[at]) > peak) peak = peaks[at], first[size_t(row)] = best[at];
    for (size_t at = size_t(row); at < peaks.size(); at += size_t(padded)) sum += sums[at] * std::exp(double(peaks[at]) - peak);
    total[size_t(row)] = peak + std::log(sum);
  }
  for (const Asked& a : asked) {
    likelihoods[a.index] = double(logits[size_t(a.index)]) - total[size_t(a.row)];
    is_best[a.index] = first[size_t(a.row)] == a.token;
  }
}

}  // namespace spikeconv
