// Working memory of a thread, kept between calls.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace spikeconv {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // At least that many bytes, aligned to a cache line, of undefined content.
  void* bytes(int64_t wanted) {
    if (wanted > size_) {
      std::free(data_);
      size_ = (wanted + 63) / 64 * 64;
      data_ = std::aligned_alloc(64, size_t(size_));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace spikeconv
