// Shares work out among threads: the pool's inside a forward of the engine, torch's elsewhere.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "pool.h"
#include "run.h"

namespace spikeconv {

// Threads that `share` shares among.
inline int64_t thread_count() {
  const Pool* pool = Pool::current();
  return pool ? pool->threads() : int64_t(torch::stable::get_num_threads());
}

// f(), which shares out among threads that are held for it. (`Pool::hold`)
inline void hold_threads(const std::function<void()>& f) {
  const Pool::Gather torch_threads = [](int64_t n, const Pool::Work& g) { torch::stable::parallel_for(0, n, 1, g); };
  Pool::hold(torch::stable::get_num_threads(), Pool::is_forked() ? Pool::spawn : torch_threads, f);
}

// f(begin, end) for pieces that make up [begin, end), each of at least `grain`.
template <class F>
void share(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin >= end) return;
  if (Pool::is_inside()) {
    f(begin, end);
  } else if (Pool* pool = Pool::current()) {
    pool->share(begin, end, grain, f);
  } else {
    torch::stable::parallel_for(begin, end, grain, f);
  }
}

// How many threads so many multiplications pay for.
inline int64_t threads_for(int64_t work) {
  return std::clamp<int64_t>(work / kWorkPerThread, 1, thread_count());
}

// f(thread) for every one of them: at once, or one after the other where torch is at work in parallel already.
template <class F>
void on_threads(int64_t threads, const F& f) {
  share(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) f(thread);
  });
}

// Units [0, count): every thread has a run of its own, so that threads write far from each other and find their weights
// and outputs of the last call in their own caches; who is done takes from the others.
class Share {
 public:
  Share(int64_t count, int64_t threads) : runs_(static_cast<size_t>(threads)) {
    for (int64_t t = 0; t < threads; ++t) {
      runs_[size_t(t)].next.store(count * t / threads, std::memory_order_relaxed);
      runs_[size_t(t)].end = count * (t + 1) / threads;
    }
  }

  int64_t take(int64_t thread) {  // -1: nothing is left
    for (size_t i = 0; i < runs_.size(); ++i) {
      Run& run = runs_[(size_t(thread) + i) % runs_.size()];
      if (run.next.load(std::memory_order_relaxed) >= run.end) continue;
      const int64_t unit = run.next.fetch_add(1, std::memory_order_relaxed);
      if (unit < run.end) return unit;
    }
    return -1;
  }

 private:
  struct alignas(64) Run {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::vector<Run> runs_;
};

}  // namespace spikeconv
