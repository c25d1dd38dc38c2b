"""The engine's threads under ThreadSanitizer: work shared out by several forwards at once, of one to five threads."""

import subprocess
from pathlib import Path

import pytest

from spikeconv.ops import build

PROGRAM = r"""
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

void forwards(int number) {
  std::vector<int64_t> sums(kCount);
  int64_t expected = 0, caught = 0;
  for (int forward = 0; forward < kForwards; ++forward) {
    const Pool::Forward pool(1 + (forward + number) % 5);
    for (int round = 0; round < kRounds; ++round, ++expected)
      share([&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++sums[size_t(i)];
      });
    try {
      share([](int64_t, int64_t end) {
        if (end == kCount) throw std::runtime_error("the last piece");
      });
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
  std::fflush(stdout);
  std::_Exit(0);  // the pool's threads sleep until the process ends
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
