#include "run.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>

#include "../common/accumulate.h"
#include "dispatch.h"
#include "parallel.h"

namespace spikeconv {

Scratch& scratch() {
  static thread_local Scratch memory;
  return memory;
}

void run_encode(const EncodeJob& job, int64_t tokens) {
  const int64_t n = job.transform.size, grain = std::max<int64_t>(1, (kWorkPerThread / 16) / std::max<int64_t>(n, 1));
  const Kernels& isa = kernels();
  share(0, tokens, grain, [&](int64_t begin, int64_t end) {
    isa.encode(job, begin, end, static_cast<float*>(scratch().bytes(encode_scratch(job) * 4)));
  });
}

// Whether what all tokens' events read is no more than all the columns, which a dense product must read, and turn into
// tiles.
static bool events_read_less(const Counts& counts) {
  constexpr int64_t kMostTokens = 32;
  if (counts.tokens == 1 || counts.tokens > kMostTokens) return counts.tokens == 1;
  int64_t fired = 0;
  for (int64_t i = 0; i < counts.tokens * counts.in_features; ++i) fired += counts.at(0, i) != 0;
  return fired <= counts.in_features;
}

void run_products(const Counts& counts, const ProductSettings& settings, std::span<const Member> members) {
  if (counts.tokens == 0) return;
  const bool columns = std::all_of(members.begin(), members.end(), [](const Member& m) { return m.weight.columns; });
  if (settings.execution == Execution::events ||
      (settings.execution == Execution::automatic && columns && events_read_less(counts)))
    run_events(counts, members);
  else
    run_dense(counts, settings.largest, members);
}

void run_unfold(const Counts& counts, const ProductSettings& settings, const int8_t* digits, int64_t slots,
                const Weight& weight, int32_t* acc) {
  const int64_t inputs = counts.tokens * counts.in_features, outputs = counts.tokens * weight.out_features;
  const int64_t width = settings.largest + 1;
  for (int64_t i = 0; i < slots * width; ++i)
    STD_TORCH_CHECK(digits[i] >= -1 && digits[i] <= 1, "spikeconv: a code's digits must be -1, 0 or 1");
  for (int64_t i = 0; i < inputs; ++i)
    STD_TORCH_CHECK(std::abs(counts.at(0, i)) < width, "spikeconv: a count beyond ", width - 1,
                    ", for which the code has no digits");
  std::vector<int8_t> spikes(static_cast<size_t>(inputs));
  std::vector<int32_t> current(static_cast<size_t>(outputs));
  const bool ramp = settings.membrane == Membrane::ramp;
  std::vector<int32_t> stays(ramp ? static_cast<size_t>(outputs) : 0);  // the current of the slots so far
  Member member{weight, {}};
  member.output.data = current.data();
  member.output.dtype = Dtype::int32;
  member.output.stride = weight.out_features;
  const Counts slot_counts{spikes.data(), counts.tokens, counts.in_features, false};
  const ProductSettings single{settings.bits, 1, Execution::dense, settings.membrane};
  std::fill(acc, acc + outputs, 0);
  for (int64_t slot = 0; slot < slots; ++slot) {
    for (int64_t i = 0; i < inputs; ++i) spikes[size_t(i)] = int8_t(spike_of(counts.at(0, i), digits + slot * width));
    run_products(slot_counts, single, {&member, 1});
    for (int64_t i = 0; i < outputs; ++i) {
      int32_t& input = current[size_t(i)];
      if (ramp) input = stays[size_t(i)] = add_wrapped(stays[size_t(i)], input);
      const int32_t held = settings.membrane == Membrane::doubled ? add_wrapped(acc[i], acc[i]) : acc[i];
      acc[i] = add_wrapped(held, input);
    }
  }
}

}  // namespace spikeconv
