// Events of a whole call: the fired columns of every token are shared out.
#include "../common/accumulate.h"
#include "dispatch.h"
#include "parallel.h"

namespace spikeconv {
namespace {

constexpr int64_t kShortColumn = 4096;  // bytes

// Columns that lie side by side, as those of a group's members do: one weight, whose outputs are those of the members.
struct Columns {
  Weight weight;
  std::span<const Member> members;
};

int64_t column_bytes(const Weight& w) { return is_nibble(w.bits) ? ceil_div(w.out_features, 2) : w.out_features; }

bool beside(const Weight& w, const Weight& next) {
  return next.data == w.data + column_bytes(w) && next.stride == w.stride &&
         (!is_nibble(w.bits) || w.out_features % 2 == 0);
}

std::vector<Columns> columns_of(std::span<const Member> members) {
  std::vector<Columns> all;
  for (size_t i = 0; i < members.size(); ++i) {
    const Weight& w = members[i].weight;
    if (!all.empty() && beside(all.back().weight, w)) {
      Columns& last = all.back();
      last.weight.out_features += w.out_features;
      last.members = {last.members.data(), last.members.size() + 1};
    } else {
      all.push_back({w, members.subspan(i, 1)});
    }
  }
  return all;
}

// Accumulators of outputs [first, last) → those members' outputs.
void write(const Kernels& isa, const Columns& columns, int32_t count_sum, int64_t token, int64_t first, int64_t last,
           const int32_t* acc) {
  int64_t begin = 0;
  for (const Member& m : columns.members) {
    const int64_t end = begin + m.weight.out_features, low = std::max(begin, first), high = std::min(end, last);
    if (low < high)
      isa.write(m.output, m.weight.bits, count_sum, token, low - begin, high - low, acc + (low - first));
    begin = end;
  }
}

// Long columns: every thread has outputs of its own. Short ones: every thread has events of its own, since pieces of
// columns would be too short for memory, and the sums of all threads are added in the end.
void run_columns(const Kernels& isa, const Columns& columns, const Fired& fired, int64_t token) {
  const Weight& w = columns.weight;
  const int64_t pieces = ceil_div(w.out_features, kEventOutputs), width = pieces * kEventOutputs;
  int64_t threads = threads_for(w.out_features * fired.number);
  const bool by_events = threads > 1 && column_bytes(w) <= kShortColumn;
  if (!by_events) threads = std::min(threads, pieces);
  static thread_local Scratch memory;
  int32_t* sums_of = static_cast<int32_t*>(memory.bytes((by_events ? threads : 1) * width * 4));
  on_threads(threads, [&](int64_t thread) {
    const int64_t first = by_events ? 0 : pieces * thread / threads * kEventOutputs;
    const int64_t last = by_events ? w.out_features
                                   : std::min(w.out_features, pieces * (thread + 1) / threads * kEventOutputs);
    int32_t* acc = sums_of + (by_events ? thread * width : first);
    int16_t* sums = static_cast<int16_t*>(scratch().bytes(ceil_div(last - first, kEventOutputs) * kEventOutputs * 2));
    const int64_t begin = by_events ? fired.number * thread / threads : 0;
    const int64_t end = by_events ? fired.number * (thread + 1) / threads : fired.number;
    isa.events(w, fired, begin, end, first, last, acc, sums);
    if (!by_events) write(isa, columns, fired.sum, token, first, last, acc);
  });
  if (!by_events) return;
  for (int64_t t = 1; t < threads; ++t)
    for (int64_t o = 0; o < width; ++o) sums_of[o] = add_wrapped(sums_of[o], sums_of[t * width + o]);
  write(isa, columns, fired.sum, token, 0, w.out_features, sums_of);
}

}  // namespace

void run_events(const Counts& counts, std::span<const Member> members) {
  const Kernels& isa = kernels();
  static thread_local Scratch memory;
  const int64_t room = ceil_div(counts.in_features, 16) * 16 + 16;  // a list may be written to a vector behind its end
  int32_t* index = static_cast<int32_t*>(memory.bytes(room * 6));
  int16_t* count = reinterpret_cast<int16_t*>(index + room);
  const std::vector<Columns> all = columns_of(members);
  for (int64_t token = 0; token < counts.tokens; ++token) {
    Fired fired;
    isa.list(counts.row(token), counts.wide, counts.in_features, index, count, fired);
    for (const Columns& columns : all) run_columns(isa, columns, fired, token);
  }
}

}  // namespace spikeconv
