// Threads that spin for their next piece of work as long as a forward lasts, and sleep outside of it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace spikeconv {

class Pool {
 public:
  // What shares the calling thread's work out; null: torch does.
  static Pool* current();
  // Whether the calling thread is doing a piece of shared work already: what it shares out then is its own.
  static bool is_inside();

  // Takes the pool of the process for as long as it lives, with so many threads, the calling one included. Where another
  // thread has it, or one thread is wanted, the calling thread's work goes where it would go without.
  class Forward {
   public:
    explicit Forward(int64_t threads);
    ~Forward();
    Forward(const Forward&) = delete;
    Forward& operator=(const Forward&) = delete;

   private:
    std::unique_lock<std::mutex> held_;
  };

  template <class F>
  void share(int64_t begin, int64_t end, int64_t grain, const F& f) {
    const int64_t count = end - begin, pieces = std::min<int64_t>(threads(), (count + grain - 1) / grain);
    if (pieces < 2) {
      f(begin, end);
      return;
    }
    // Pieces of equal size, the first ones one longer.
    const auto piece = [=, &f](int64_t i) {
      const int64_t size = count / pieces, longer = count % pieces;
      const int64_t from = begin + i * size + std::min(i, longer);
      f(from, from + size + (i < longer));
    };
    run([](const void* what, int64_t i) { (*static_cast<const decltype(piece)*>(what))(i); }, &piece, pieces);
  }

  int64_t threads() const { return wanted_; }

 private:
  using Call = void (*)(const void*, int64_t);

  Pool() = default;
  static Pool& instance();
  void run(Call call, const void* what, int64_t pieces);
  void work(int64_t index, uint32_t seen);
  void open(int64_t threads);
  void close();
  void keep_error();

  std::mutex mutex_;
  std::vector<std::thread> workers_;
  int64_t wanted_ = 1;
  Call call_ = nullptr;
  const void* what_ = nullptr;
  int64_t pieces_ = 0;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int64_t> left_{0};
  alignas(64) std::atomic<bool> open_{false};
};

}  // namespace spikeconv
