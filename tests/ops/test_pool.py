"""The engine's threads under ThreadSanitizer: work shared out by several forwards at once, of one to five threads."""

import subprocess
from pathlib import Path

import pytest

from spikeconv.ops import build

PROGRAM = r"""
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pool.h"

using spikeconv::Pool;

constexpr int kForwards = 40, kRounds = 50, kCount = 1000;

template <class F>
void share(const F& f) {
  if (Pool* pool = Pool::current())
    pool->share(0, kCount, 1, f);
  else
    f(0, kCount);
}

// Half as many threads as there are pieces, as torch gives where the system has no more.
void fewer(int64_t n, const Pool::Work& g) {
  std::vector<std::thread> others;
  for (int64_t i = 2; i < n; i += 2) others.emplace_back([&g, i, n] { g(i, std::min(i + 2, n)); });
  g(0, std::min<int64_t>(2, n));
  for (std::thread& other : others) other.join();
}

void forwards(int number) {
  std::vector<int64_t> sums(kCount);
  int64_t expected = 0, caught = 0;
  for (int forward = 0; forward < kForwards; ++forward) {
    const auto work = [&] {
      for (int round = 0; round < kRounds; ++round, ++expected)
        share([&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++sums[size_t(i)];
        });
      share([](int64_t, int64_t end) {
        if (end == kCount) throw std::runtime_error("the last piece");
      });
    };
    try {
      Pool::hold(1 + (forward + number) % 5, forward % 2 ? Pool::spawn : fewer, work);
    } catch (const std::runtime_error&) {
      ++caught;
    }
  }
  for (const int64_t sum : sums)
    if (sum != expected) std::abort();
  if (caught != kForwards) std::abort();
}

int main() {
  std::vector<std::thread> threads;
  for (int number = 0; number < 3; ++number) threads.emplace_back(forwards, number);
  for (std::thread& thread : threads) thread.join();
  std::puts("done");
}
"""


def test_threads_share_without_races(tmp_path: Path) -> None:
    compiler = build.compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source, program, kernels = tmp_path / "main.cpp", tmp_path / "main", build.sources() / "cpu"
    source.write_text(PROGRAM)
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{kernels}"]
    subprocess.run([compiler, *flags, source, kernels / "pool.cpp", "-o", program], check=True)
    done = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr[-3000:]
