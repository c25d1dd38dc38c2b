// The fibers behind emulate.h. Built for tests only.
#include <setjmp.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "emulate.h"

EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace spikeconv::cuda::emulate {
namespace {

constexpr int64_t kStackBytes = 128 << 10, kGuard = 4096;
constexpr uint8_t kGarbage = 0xC5;

struct Barrier {
  int size = 0, arrived = 0;
  uint64_t generation = 0;
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
};

struct Fiber {
  ucontext_t context;  // to start with; later switches are jumps, which need no system call
  jmp_buf place;
  bool started = false;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  const Barrier* waits_for = nullptr;
  uint64_t generation = 0;
  uint64_t exchanges = 0;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // the last one is not committed yet
};

struct Warp {
  Barrier barrier;
  alignas(64) uint8_t slots[2][32 * 64];  // two, because a fast lane may be one exchange ahead
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
Barrier block_barrier;
jmp_buf scheduler;
int current;
const std::function<void()>* body;
std::vector<uint8_t> shared;
int64_t shared_size;
const char* failure = nullptr;  // thrown by the scheduler: a fiber's stack has no handler above it

int setting(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text ? atoi(text) : otherwise;
}

void leave() {  // to the scheduler, until it resumes this fiber
  if (!_setjmp(fibers[size_t(current)]->place)) _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

void fail(const char* what) {
  failure = what;
  leave();
}

void arrive(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  Fiber& fiber = *fibers[size_t(current)];
  fiber.waits_for = &barrier;
  fiber.generation = generation;
  leave();
}

void enter() {
  (*body)();
  fibers[size_t(current)]->done = true;
  leave();
}

void run_block(int threads, const std::vector<int>& order) {
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = *fibers[size_t(t)];
    fiber.waits_for = nullptr;
    fiber.done = fiber.started = false;
    fiber.groups.assign(1, {});
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = size_t(kStackBytes);
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  int left = threads;
  while (left) {
    bool moved = false;
    for (int t : order) {
      Fiber& fiber = *fibers[size_t(t)];
      if (fiber.done || (fiber.waits_for && fiber.waits_for->generation == fiber.generation)) continue;
      fiber.waits_for = nullptr;
      current = t;
      threadIdx.x = unsigned(t);
      resume(fiber);
      if (const char* what = std::exchange(failure, nullptr)) throw std::runtime_error(what);
      left -= fiber.done;
      moved = true;
    }
    if (!moved) throw std::runtime_error("emulated GPU: some threads wait where others never arrive");
  }
}

}  // namespace

int64_t shared_limit() { return setting("SPIKECONV_EMULATE_SHARED", 99 << 10); }

void* shared_memory() {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(shared.data()) + 255) / 256 * 256);
}

void barrier() { arrive(block_barrier); }

const uint8_t* exchange(const void* value, int bytes) {
  Warp& warp = warps[threadIdx.x / 32];
  uint8_t* slots = warp.slots[fibers[size_t(current)]->exchanges++ % 2];
  memcpy(slots + 64 * lane(), value, size_t(bytes));
  arrive(warp.barrier);
  return slots;
}

void copy(void* to, const void* from, int bytes, bool valid) {
  const auto width = static_cast<uintptr_t>(bytes);
  const auto* begin = static_cast<uint8_t*>(shared_memory());
  const auto* end = begin + shared_size;
  if (reinterpret_cast<uintptr_t>(to) % width || (valid && reinterpret_cast<uintptr_t>(from) % width))
    fail("emulated GPU: an asynchronous copy is not aligned to its size");
  if (static_cast<uint8_t*>(to) < begin || static_cast<uint8_t*>(to) + bytes > end)
    fail("emulated GPU: an asynchronous copy leaves shared memory");
  fibers[size_t(current)]->groups.back().push_back({to, from, bytes, valid});
}

void commit() { fibers[size_t(current)]->groups.emplace_back(); }

void wait(int pending) {
  auto& groups = fibers[size_t(current)]->groups;
  while (int64_t(groups.size()) - 1 > pending) {
    for (const Copy& c : groups.front())
      if (c.valid)
        memcpy(c.to, c.from, size_t(c.bytes));
      else
        memset(c.to, 0, size_t(c.bytes));
    groups.erase(groups.begin());
  }
}

void run(int64_t blocks, int threads, int64_t shared_bytes, const std::function<void()>& kernel) {
  if (threads % 32 || threads > 1024) throw std::runtime_error("emulated GPU: threads must be whole warps, up to 1024");
  if (shared_bytes > shared_limit()) throw std::runtime_error("emulated GPU: too much shared memory");
  // 0: ascending, 1: descending, other: shuffled by that seed.
  const int seed = setting("SPIKECONV_EMULATE_ORDER", 0);
  std::vector<int> order(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) order[size_t(t)] = seed == 1 ? threads - 1 - t : t;
  uint64_t state = uint64_t(seed);
  if (seed > 1)
    for (int t = threads - 1; t > 0; --t) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[size_t(t)], order[size_t(state >> 33) % size_t(t + 1)]);
    }
  while (int(fibers.size()) < threads) fibers.push_back(std::make_unique<Fiber>());
  for (auto& fiber : fibers) fiber->exchanges = 0;
  warps.assign(size_t(threads / 32), {});
  for (Warp& warp : warps) warp.barrier.size = 32;
  block_barrier = Barrier{threads, 0, 0};
  blockDim.x = unsigned(threads);
  gridDim.x = unsigned(blocks);
  body = &kernel;
  shared_size = shared_bytes;
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = unsigned(block);
    shared.assign(size_t(shared_bytes + 256 + kGuard), kGarbage);
    run_block(threads, order);
    const auto* end = static_cast<uint8_t*>(shared_memory()) + shared_bytes;
    const auto* last = static_cast<const uint8_t*>(shared.data() + shared.size());
    if (std::any_of<const uint8_t*>(end, last, [](uint8_t b) { return b != kGarbage; }))
      throw std::runtime_error("emulated GPU: a kernel wrote behind its shared memory");
  }
}

}  // namespace spikeconv::cuda::emulate
