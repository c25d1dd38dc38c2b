// Whether places in Python's dictionaries hold what they did. A model has thousands of them, no processor's cache has
// them after the weights went through it, and a loop of native code waits for many at once where the interpreter waits
// for one after the other. Python hands over its own functions, so that the library is linked to no Python, and holds its
// lock meanwhile.
#include <cstdint>

namespace {

struct Place {
  void* dictionary;
  void* name;
  const void* value;  // null: nothing of that name
};

using Find = const void* (*)(void* dictionary, void* name);  // PyDict_GetItemWithError: what is there, or null
using Size = intptr_t (*)(void* container);                  // PyObject_Size

}  // namespace

// `near`: addresses that are read here, or by whoever calls next.
extern "C" __attribute__((visibility("default"))) bool spikeconv_places_hold(
    const Place* places, int64_t place_count, void* const* empty, int64_t empty_count, const char* const* near,
    int64_t near_count, Find find, Size size) {
  for (int64_t i = 0; i < near_count; ++i) __builtin_prefetch(near[i]);
  for (int64_t i = 0; i < place_count; ++i)
    if (find(places[i].dictionary, places[i].name) != places[i].value) return false;
  for (int64_t i = 0; i < empty_count; ++i)
    if (size(empty[i]) != 0) return false;
  return true;
}
