// Dense products of a whole call: counts are packed, panels of weights are shared out.
#include <memory>
#include <thread>

#include "dispatch.h"
#include "parallel.h"

namespace spikeconv {
namespace {

constexpr int64_t kBlockTiles = 8;      // row tiles that are packed together, at most
constexpr int64_t kBlockRows = 64;      // of them, at most
constexpr int64_t kGroupBlocks = 8;     // of a unit, where there are many rows
constexpr int64_t kUnitsPerThread = 16; // at least, where that is possible: so much less waits for the last one

int64_t outputs_of(std::span<const Member> members) {
  int64_t outputs = 0;
  for (const Member& m : members) outputs += m.weight.out_features;
  return outputs;
}

int64_t panels_of(const Member& m) { return ceil_div(m.weight.out_features, kPanelOutputs); }

// Counts in row tiles, packed block by block by whoever needs them first.
class Packing {
 public:
  Packing(const Kernels& isa, const Counts& counts, int64_t largest, int64_t block)
      : isa_(isa), counts_(counts), block_(block),
        states_(std::make_unique<std::atomic<int>[]>(size_t(ceil_div(counts.tokens, block)))) {
    static thread_local Scratch memory;
    packed_.planes = counts.wide ? 2 : 1;
    packed_.words = ceil_div(counts.in_features, isa.depth_words * kWordInputs) * isa.depth_words;
    packed_.largest = counts.wide ? kPlane : int(largest);
    const int64_t bytes = ceil_div(counts.tokens * packed_.bytes(), 64) * 64;
    data_ = static_cast<int8_t*>(memory.bytes(bytes + counts.tokens * 4 + kReadBehind));
    sums_ = reinterpret_cast<int32_t*>(data_ + bytes);
    packed_.data = data_;
    packed_.sums = sums_;
  }

  const PackedCounts& counts() const { return packed_; }

  void need(int64_t b) {  // or wait until somebody else is done
    std::atomic<int>& state = states_[size_t(b)];
    int found = kRaw;
    if (state.load(std::memory_order_acquire) == kPacked) return;
    if (!state.compare_exchange_strong(found, kBeingPacked)) {
      for (int spins = 0; state.load(std::memory_order_acquire) != kPacked; ++spins)
        if (spins > 1 << 10) std::this_thread::yield();
      return;
    }
    const int64_t end = std::min(counts_.tokens, (b + 1) * block_);
    for (int64_t t = b * block_; t < end; t += isa_.tile_rows)
      isa_.pack(counts_.row(t), counts_.wide, counts_.in_features, std::min<int64_t>(isa_.tile_rows, end - t),
                data_ + t * packed_.bytes(), sums_ + t);
    state.store(kPacked, std::memory_order_release);
  }

 private:
  enum : int { kRaw, kBeingPacked, kPacked };
  const Kernels& isa_;
  const Counts& counts_;
  int64_t block_;
  std::unique_ptr<std::atomic<int>[]> states_;
  PackedCounts packed_;
  int8_t* data_;
  int32_t* sums_;
};

// One to four tokens. The counts are packed by every thread for itself: that is less than telling each other.
void run_few(const Counts& counts, int64_t largest, std::span<const Member> members) {
  const Kernels& isa = kernels();
  const int64_t planes = counts.wide ? 2 : 1, words = ceil_div(counts.in_features, kWordInputs);
  const int64_t threads = threads_for(counts.tokens * planes * counts.in_features * outputs_of(members));
  int64_t tiles = 0;
  for (const Member& m : members) tiles += m.tiles();
  on_threads(threads, [&](int64_t thread) {
    const int64_t begin = tiles * thread / threads, end = tiles * (thread + 1) / threads;
    int8_t* data = static_cast<int8_t*>(scratch().bytes(counts.tokens * planes * words * kWordInputs));
    int32_t sums[kFewRows];
    isa.pack_few(counts.data, counts.wide, counts.in_features, counts.tokens, data, sums);
    const PackedCounts packed{data, sums, words, int(planes), int(counts.wide ? kPlane : largest)};
    int64_t first = 0;
    for (const Member& m : members) {
      const int64_t low = std::max(begin, first) - first, high = std::min(end - first, m.tiles());
      if (low < high) isa.dense_few(m.weight, packed, counts.tokens, m.output, low, high);
      first += m.tiles();
    }
  });
}

// Units are a panel and some blocks of rows, all in one parallel region.
void run_many(const Kernels& isa, const Counts& counts, int64_t largest, std::span<const Member> members) {
  const int64_t threads = threads_for(counts.tokens * (counts.wide ? 2 : 1) * counts.in_features * outputs_of(members));
  int64_t panels = 0;
  for (const Member& m : members) panels += panels_of(m);
  int64_t block_tiles = std::min(kBlockTiles, kBlockRows / isa.tile_rows);
  while (block_tiles > 2 &&
         panels * ceil_div(counts.tokens, block_tiles * isa.tile_rows) < kUnitsPerThread * threads)
    block_tiles /= 2;
  const int64_t block = block_tiles * isa.tile_rows, blocks = ceil_div(counts.tokens, block);
  Packing packing(isa, counts, largest, block);
  // Many rows: every thread has rows of its own, which it packed itself, for what another core has written is slow to
  // read; a group's packed counts stay in the caches. Otherwise it has panels of its own, so that a weight is read from
  // memory once. Units are as small as keeps all threads busy alike.
  const bool by_rows = blocks >= threads * kGroupBlocks;
  int64_t group = by_rows ? kGroupBlocks : blocks;
  while (group > 1 && panels * ceil_div(blocks, group) < kUnitsPerThread * threads) group = ceil_div(group, 2);
  const int64_t groups = ceil_div(blocks, group);
  Share share(panels * groups, threads);
  on_threads(threads, [&](int64_t thread) {
    int64_t bytes = 0;
    for (const Member& m : members) bytes = std::max(bytes, dense_scratch(m.weight));
    void* memory = scratch().bytes(bytes);
    for (int64_t b = thread; b < blocks && !by_rows; b += threads) packing.need(b);
    for (int64_t unit; (unit = share.take(thread)) >= 0;) {
      int64_t panel = by_rows ? unit % panels : unit / groups;
      const int64_t g = by_rows ? unit / panels : unit % groups, end = std::min(blocks, (g + 1) * group);
      const Member* m = members.data();
      for (; panel >= panels_of(*m); ++m) panel -= panels_of(*m);
      for (int64_t b = g * group; b < end; ++b) packing.need(b);
      isa.dense(m->weight, packing.counts(), m->output, panel, g * group * block, std::min(counts.tokens, end * block),
                memory);
    }
  });
}

}  // namespace

void run_dense(const Counts& counts, int64_t largest, std::span<const Member> members) {
  const bool tiles = std::none_of(members.begin(), members.end(), [](const Member& m) { return m.weight.columns; });
  const Kernels& isa = kernels();
  if (counts.tokens <= kFewRows && tiles)
    run_few(counts, largest, members);
  else
    run_many(counts.tokens < isa.small_tokens ? *isa.small : isa, counts, largest, members);
}

}  // namespace spikeconv
