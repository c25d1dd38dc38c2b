// Shares work out among threads: the pool's inside a forward of the engine, torch's elsewhere.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "pool.h"

namespace spikeconv {

// Threads that `share` shares among.
inline int64_t thread_count() {
  const Pool* pool = Pool::current();
  return pool ? pool->threads() : int64_t(torch::stable::get_num_threads());
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

}  // namespace spikeconv
