#include "pool.h"

#include <algorithm>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spikeconv {
namespace {

thread_local Pool* t_current = nullptr;
thread_local bool t_inside = false;

Pool* g_pool = nullptr;

// How often a waiting thread looks before it lets others have its processor.
constexpr int kSpins = 4000;

void pause(int& spins) {
  if (++spins < kSpins) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  } else {
    spins = 0;
    std::this_thread::yield();
  }
}

struct Inside {
  Inside() { t_inside = true; }
  ~Inside() { t_inside = false; }
};

}  // namespace

Pool* Pool::current() { return t_current; }

bool Pool::is_inside() { return t_inside; }

// One for the process, never freed: its threads may be asleep when the process ends. A child has none of its parent's.
Pool& Pool::instance() {
  static std::once_flag once;
  std::call_once(once, [] {
    g_pool = new Pool;
#if defined(__linux__)
    pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
#endif
  });
  return *g_pool;
}

Pool::Forward::Forward(int64_t threads) {
  if (threads < 2 || t_current || t_inside) return;
  Pool& pool = instance();
  held_ = std::unique_lock(pool.mutex_, std::try_to_lock);
  if (!held_.owns_lock()) return;
  pool.open(threads);
  t_current = &pool;
}

Pool::Forward::~Forward() {
  if (!held_.owns_lock()) return;
  t_current->close();
  t_current = nullptr;
}

void Pool::open(int64_t threads) {
  while (int64_t(workers_.size()) < threads - 1) {
    const int64_t index = int64_t(workers_.size()) + 1;
    // What was called before is not for a thread that comes now.
    workers_.emplace_back([this, index, seen = round_.load()] { work(index, seen); });
  }
  wanted_ = threads;
  open_.store(true, std::memory_order_release);
  open_.notify_all();
}

void Pool::close() { open_.store(false, std::memory_order_release); }

void Pool::keep_error() {
  const std::lock_guard lock(error_mutex_);
  if (!error_) error_ = std::current_exception();
}

void Pool::run(Call call, const void* what, int64_t pieces) {
  call_ = call;
  what_ = what;
  pieces_ = pieces;
  left_.store(int64_t(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  try {
    const Inside inside;
    call(what, 0);
  } catch (...) {
    keep_error();
  }
  for (int spins = 0; left_.load(std::memory_order_acquire);) pause(spins);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::work(int64_t index, uint32_t seen) {
  t_inside = true;
  for (;;) {
    int spins = 0, idle = 0;
    uint32_t now;
    while ((now = round_.load(std::memory_order_acquire)) == seen) {
      if (open_.load(std::memory_order_acquire) || ++idle < kSpins)  // the next token often comes at once
        pause(spins);
      else
        open_.wait(false, std::memory_order_acquire);
    }
    seen = now;
    if (index < pieces_) try {
        call_(what_, index);
      } catch (...) {
        keep_error();
      }
    left_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace spikeconv
