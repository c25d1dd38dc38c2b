#include "dispatch.h"

#include <atomic>
#include <stdexcept>

namespace spikeconv {
namespace {

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> result;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2")) {
    if (const Kernels* amx = amx_kernels()) result.push_back(amx);
    result.push_back(&kAvx512Vnni);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) result.push_back(&kAvx2);
#endif
  result.push_back(&kPortable);
  return result;
}

const Kernels& kernels() {
  const Kernels* current = chosen.load(std::memory_order_relaxed);
  if (!current) chosen = current = available_kernels().front();
  return *current;
}

void use_kernels(const std::string& name) {
  std::string known = "auto";
  for (const Kernels* candidate : available_kernels()) {
    if (name == candidate->name || name == "auto") {
      chosen = candidate;
      return;
    }
    known += std::string(", ") + candidate->name;
  }
  throw std::invalid_argument("this processor cannot run the kernels '" + name + "'; it can run: " + known);
}

}  // namespace spikeconv
