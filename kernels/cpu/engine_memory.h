// What a forward of the engine works in: one block of memory in pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine.h"

namespace spikeconv {

// Pieces of one block of memory, each at a cache line.
class Room {
 public:
  explicit Room(char* begin) : next_(begin), begin_(begin) {}
  template <class T>
  T* take(int64_t count) {
    char* piece = next_;
    next_ += ceil_div(count * int64_t(sizeof(T)), 64) * 64;
    return reinterpret_cast<T*>(piece);
  }
  int64_t used() const { return next_ - begin_; }

 private:
  char *next_, *begin_;
};

// Counts of tokens with their scales and zero points, of inputs up to `widest`.
struct Encoded {
  void* counts;
  float* scale;
  int32_t* zero;

  Encoded(Room& room, int64_t tokens, int64_t widest)
      : counts(room.take<int16_t>(tokens * widest)), scale(room.take<float>(tokens)), zero(room.take<int32_t>(tokens)) {}
};

// What a forward of so many tokens works in.
struct Workspace {
  float *x, *attended, *other, *gate, *up, *query, *key, *value, *final;
  Encoded encoded;
  float* records;

  Workspace(Room& room, const ModelPlan& m, int64_t tokens, int64_t records_floats)
      : encoded(room, tokens, std::max({m.hidden, m.query_width(), m.intermediate})) {
    x = room.take<float>(tokens * m.hidden);
    other = room.take<float>(tokens * m.hidden);
    query = room.take<float>(tokens * m.query_width());
    attended = room.take<float>(tokens * m.query_width());
    key = room.take<float>(tokens * m.key_width());
    value = room.take<float>(tokens * m.key_width());
    gate = room.take<float>(tokens * m.intermediate);
    up = room.take<float>(tokens * m.intermediate);
    final = room.take<float>(tokens * m.hidden);
    records = room.take<float>(records_floats);
  }
};

}  // namespace spikeconv
