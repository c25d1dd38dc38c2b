// The machine's limits, for the benchmarks: every thread of torch on a core of its own.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include <time.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "../common/tensors.h"
#include "dispatch.h"

namespace spikeconv {
namespace {

#if defined(__linux__)
// Keeps the calling thread on the core of that number among those it may use, for as long as this lives. A scheduler
// may leave two threads on one core for milliseconds, which read as half the machine.
class OnCore {
 public:
  explicit OnCore(int64_t number) {
    moved_ = sched_getaffinity(0, sizeof before_, &before_) == 0 && CPU_COUNT(&before_) > 1;
    if (!moved_) return;
    number %= CPU_COUNT(&before_);
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &before_) && number-- == 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        moved_ = sched_setaffinity(0, sizeof one, &one) == 0;
        return;
      }
  }
  OnCore(const OnCore&) = delete;
  OnCore& operator=(const OnCore&) = delete;
  ~OnCore() {
    if (moved_) sched_setaffinity(0, sizeof before_, &before_);
  }
  int64_t number() const { return sched_getcpu(); }

 private:
  cpu_set_t before_;
  bool moved_;
};
#else
struct OnCore {
  int64_t core;
  explicit OnCore(int64_t number) : core(number) {}
  int64_t number() const { return core; }
};
#endif

// f(thread, threads) on all threads at once, each on a core; returns how many cores that were.
template <class F>
int64_t on_cores(F f) {
  const int64_t threads = torch::stable::get_num_threads();
  std::vector<int64_t> cores(static_cast<size_t>(threads));
  std::atomic<int64_t> started{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const OnCore core(begin);
    // Nobody begins before all are there: whoever began alone would have the memory to himself.
    started += end - begin;
    for (int spins = 0; started < threads; ++spins)
      if (spins > 1 << 16) std::this_thread::yield();
    for (int64_t t = begin; t < end; ++t) {
      cores[size_t(t)] = core.number();
      f(t, threads);
    }
  });
  return int64_t(std::set<int64_t>(cores.begin(), cores.end()).size());
}

double seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Multiplications a second of `rounds` rounds of product instructions on registers in every thread, each in the time
// that it ran: where others take turns on its core, that is not the core's limit. Also the number of cores that the
// threads had.
std::tuple<double, int64_t> cpu_peak(int64_t rounds) {
  std::vector<double> rate(static_cast<size_t>(torch::stable::get_num_threads()));
  const int64_t cores = on_cores([&](int64_t t, int64_t) {
    const double start = seconds(CLOCK_THREAD_CPUTIME_ID);
    const double products = double(kernels().peak(rounds));
    rate[size_t(t)] = products / (seconds(CLOCK_THREAD_CPUTIME_ID) - start);
  });
  return {std::accumulate(rate.begin(), rate.end(), 0.0), cores};
}

// Bytes a second of reading a tensor some times, each thread its part, from when the first begins to when the last
// ends.
double cpu_read(const Tensor& buffer, int64_t times) {
  const uint8_t* bytes = data<const uint8_t>(buffer);
  const size_t all = size_t(torch::stable::get_num_threads());
  std::vector<double> begin(all), end(all);
  on_cores([&](int64_t t, int64_t threads) {
    const int64_t part = buffer.numel() / threads;
    begin[size_t(t)] = seconds(CLOCK_MONOTONIC);
    for (int64_t i = 0; i < times; ++i) kernels().read(bytes + t * part, part);
    end[size_t(t)] = seconds(CLOCK_MONOTONIC);
  });
  return double(times * buffer.numel()) /
         (*std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end()));
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_FRAGMENT(spikeconv, m) {
  m.def("cpu_peak(int rounds) -> (float, int)");
  m.def("cpu_read(Tensor buffer, int times) -> float");
}

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CompositeExplicitAutograd, m) {
  m.impl("cpu_peak", TORCH_BOX(&spikeconv::cpu_peak));
  m.impl("cpu_read", TORCH_BOX(&spikeconv::cpu_read));
}
