#include "pool.h"

#include <system_error>
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

std::atomic<bool> g_held = false;
bool g_forked = false;

#if defined(__linux__)
[[maybe_unused]] const int g_watches = pthread_atfork(nullptr, nullptr, [] {
  g_forked = true;
  g_held = false;
});
#endif

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

struct Held {
  ~Held() { g_held = false; }
};

}  // namespace

void Pool::spawn(int64_t n, const Work& g) {
  std::vector<std::jthread> others;
  int64_t own = n;
  try {
    for (; own > 1; --own) others.emplace_back([&g, own] { g(own - 1, own); });
  } catch (const std::system_error&) {  // the system has no more threads
  }
  g(0, own);
}

bool Pool::is_forked() { return g_forked; }

Pool* Pool::current() { return t_current; }

bool Pool::is_inside() { return t_inside; }

void Pool::hold(int64_t threads, Gather gather, const std::function<void()>& f) {
  if (threads < 2 || t_current || t_inside || g_held.exchange(true)) return f();
  Pool pool(threads);
  {
    const Held held;
    gather(threads, [&](int64_t begin, int64_t end) { begin == 0 ? pool.lead(end, f) : pool.follow(begin, end); });
  }
  if (pool.error_) std::rethrow_exception(pool.error_);
}

void Pool::keep_error() {
  const std::lock_guard lock(error_mutex_);
  if (!error_) error_ = std::current_exception();
}

void Pool::call_pieces(int64_t begin, int64_t end) {
  try {
    const Inside inside;
    for (int64_t i = begin; i < std::min(end, pieces_); ++i) call_(what_, i);
  } catch (...) {
    keep_error();
  }
}

void Pool::lead(int64_t own, const std::function<void()>& f) {
  own_ = own;
  t_current = this;
  try {
    f();
  } catch (...) {
    keep_error();
  }
  t_current = nullptr;
  call_ = nullptr;
  round_.fetch_add(1, std::memory_order_release);
}

void Pool::run(Call call, const void* what, int64_t pieces) {
  call_ = call;
  what_ = what;
  pieces_ = pieces;
  left_.store(threads_ - own_, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  call_pieces(0, own_);
  for (int spins = 0; left_.load(std::memory_order_acquire);) pause(spins);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::follow(int64_t begin, int64_t end) {
  for (uint32_t seen = 0, now;; seen = now) {
    for (int spins = 0; (now = round_.load(std::memory_order_acquire)) == seen;) pause(spins);
    if (!call_) return;
    call_pieces(begin, end);
    left_.fetch_sub(end - begin, std::memory_order_release);
  }
}

}  // namespace spikeconv
