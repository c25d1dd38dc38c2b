// Threads that spin for their next piece of work as long as a forward lasts.
//
// They are those that torch's ops run on, taken for one forward. Threads of our own would share the processors with
// them: torch's spin for milliseconds behind each of its ops, and halved the speed of the tokens in between.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace spikeconv {

class Pool {
 public:
  // Calls g(begin, end) for pieces that make up [0, n), each on a thread of its own, the first on the calling one, and
  // returns behind the last: as at::parallel_for does, and `spawn`.
  using Work = std::function<void(int64_t begin, int64_t end)>;
  using Gather = void (*)(int64_t n, const Work& g);

  // Gathers new threads. (In a process that was forked from one whose threads torch had used, torch's never come.)
  static void spawn(int64_t n, const Work& g);
  static bool is_forked();

  // What shares the calling thread's work out; null: torch does.
  static Pool* current();
  // Whether the calling thread is doing a piece of shared work already: what it shares out then is its own.
  static bool is_inside();

  // f() on the calling thread, which shares out among so many of the gathered, itself included. One forward at a time:
  // while another has its threads, and where one is wanted, f's work goes where it would go without.
  static void hold(int64_t threads, Gather gather, const std::function<void()>& f);

  // f(begin, end) for pieces that make up [begin, end), each of at least `grain`.
  template <class F>
  void share(int64_t begin, int64_t end, int64_t grain, const F& f) {
    const int64_t count = end - begin, pieces = std::min<int64_t>(threads_, (count + grain - 1) / grain);
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

  int64_t threads() const { return threads_; }

 private:
  using Call = void (*)(const void*, int64_t);

  explicit Pool(int64_t threads) : threads_(threads) {}
  void lead(int64_t own, const std::function<void()>& f);
  void follow(int64_t begin, int64_t end);
  void run(Call call, const void* what, int64_t pieces);
  void call_pieces(int64_t begin, int64_t end);
  void keep_error();

  const int64_t threads_;
  int64_t own_ = 1;  // pieces that fall to the leader: the first ones, more than one if fewer threads came
  Call call_ = nullptr;  // null: the forward has ended
  const void* what_ = nullptr;
  int64_t pieces_ = 0;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int64_t> left_{0};
};

}  // namespace spikeconv
