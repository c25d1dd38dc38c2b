// Tensors as the engine's ops take them: looked at once, kept as addresses.
#pragma once

#include <array>
#include <cstring>
#include <initializer_list>

#include "engine.h"
#include "tensors.h"

namespace spikeconv {

inline const float* kept_floats(const Tensor& t, int64_t count, const char* what) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous() && t.numel() == count && !t.is_cuda(),
                  "spikeconv: ", what, " must be ", count, " contiguous float32 numbers");
  return data<const float>(t);
}

inline const float* if_kept(const OptionalTensor& t, int64_t count, const char* what) {
  return t ? kept_floats(*t, count, what) : nullptr;
}

inline float* written_floats(const Tensor& t, int64_t count, const char* what) {
  return const_cast<float*>(kept_floats(t, count, what));
}

inline FloatRows kept_rows(const Tensor& t, int64_t rows, int64_t width, const char* what) {
  const bool half = t.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK((half || t.scalar_type() == ScalarType::Float) && t.is_contiguous() && t.dim() == 2 &&
                      t.size(0) == rows && t.size(1) == width && !t.is_cuda(),
                  "spikeconv: ", what, " must be contiguous float32 or bfloat16 [", rows, ", ", width, "]");
  return {t.data_ptr(), half ? Dtype::bfloat16 : Dtype::float32, width};
}

// The weights of a head: rows of floats, or of int8 with a scale for every kScaled of them.
inline FloatRows kept_head(const Tensor& t, const OptionalTensor& scale, int64_t rows, int64_t width) {
  STD_TORCH_CHECK((t.scalar_type() == ScalarType::Char) == scale.has_value(), "spikeconv: a head of int8 has scales");
  if (!scale) return kept_rows(t, rows, width, "the head");
  STD_TORCH_CHECK(t.is_contiguous() && t.dim() == 2 && t.size(0) == rows && t.size(1) == width && !t.is_cuda() &&
                      width % kScaled == 0,
                  "spikeconv: the head must be contiguous int8 [", rows, ", ", width, "], in whole blocks of ", kScaled);
  return {t.data_ptr(), Dtype::int8, width, kept_floats(*scale, rows * (width / kScaled), "the head's scales")};
}

// A group's plan, for inputs and outputs of these sizes.
inline GroupPlan group_of(const Tensor& bytes, int64_t inputs, std::initializer_list<int64_t> outputs, const char* what) {
  STD_TORCH_CHECK(bytes.numel() == int64_t(sizeof(GroupPlan)), "spikeconv: not a plan of this library");
  GroupPlan plan;
  std::memcpy(&plan, bytes.data_ptr(), sizeof(plan));
  bool fits = plan.job.transform.size == inputs && plan.member_count == int64_t(outputs.size());
  for (size_t i = 0; fits && i < outputs.size(); ++i)
    fits = plan.members[i].weight.out_features == outputs.begin()[i] && plan.members[i].output.stride == outputs.begin()[i];
  STD_TORCH_CHECK(fits, "spikeconv: the plan of ", what, " is of other sizes than the model's");
  return plan;
}

// A model, as the bytes of a tensor, and its layers behind it.
template <class Model, class Layer>
struct Planned {
  const Model& model;
  const Layer* layers;

  explicit Planned(const Tensor& bytes)
      : model(*static_cast<const Model*>(bytes.data_ptr())),
        layers(reinterpret_cast<const Layer*>(static_cast<const char*>(bytes.data_ptr()) + sizeof(Model))) {
    const int64_t size = sizeof(Model);
    STD_TORCH_CHECK(bytes.numel() >= size && bytes.numel() == size + model.layers * int64_t(sizeof(Layer)),
                    "spikeconv: not a plan of this library");
  }

  // For logits of so many rows, or what the head reads of them.
  Tensor results(int64_t rows, bool logits) const {
    STD_TORCH_CHECK(!logits || model.head.data, "spikeconv: this model has no output head");
    return make({rows, logits ? model.vocabulary : model.hidden}, aoti_torch_dtype_float32());
  }
};

// Sequences follow each other, until there are no more tokens, each in a slot that there is.
class Following {
 public:
  Following(int64_t tokens, int64_t slots) : tokens_(tokens), slots_(slots) {}

  void add(int64_t begin, int64_t count, int64_t slot) {
    STD_TORCH_CHECK(begin == next_ && count > 0 && count <= tokens_ - next_, "spikeconv: sequences must follow each other");
    STD_TORCH_CHECK(slot >= 0 && slot < slots_, "spikeconv: slot ", slot, " of ", slots_);
    next_ += count;
  }

  void finish() const {
    STD_TORCH_CHECK(next_ == tokens_, "spikeconv: ", tokens_, " tokens, but sequences of ", next_);
  }

 private:
  int64_t tokens_, slots_, next_ = 0;
};

// Token ids and rows of them: as a model knows them, ascending and in bounds.
inline void check_tokens(const Tensor& tokens, int64_t vocabulary, const Tensor& wanted) {
  for (const Tensor* t : {&tokens, &wanted})
    STD_TORCH_CHECK(t->scalar_type() == ScalarType::Long && t->is_contiguous() && !t->is_cuda(),
                    "spikeconv: tokens and rows are contiguous int64 numbers");
  const int64_t *ids = data<const int64_t>(tokens), *rows = data<const int64_t>(wanted), count = tokens.numel();
  for (int64_t t = 0; t < count; ++t)
    STD_TORCH_CHECK(ids[t] >= 0 && ids[t] < vocabulary, "spikeconv: token id ", ids[t], " is none of the ", vocabulary,
                    " that the model knows");
  for (int64_t r = 0; r < wanted.numel(); ++r)
    STD_TORCH_CHECK(rows[r] >= (r ? rows[r - 1] + 1 : 0) && rows[r] < count, "spikeconv: logits of token ", rows[r], " of ",
                    count, ", which are ascending");
}

inline const int64_t* kept_integers(const Tensor& t, const char* what) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long && t.is_contiguous() && !t.is_cuda(), "spikeconv: ", what,
                  " are contiguous int64 numbers on a CPU");
  return data<const int64_t>(t);
}

// Some numbers of each sequence, int64 [S, numbers].
inline const int64_t* kept_sequences(const Tensor& t, int64_t numbers) {
  STD_TORCH_CHECK(t.dim() == 2 && t.size(1) == numbers, "spikeconv: sequences are ", numbers, " numbers for each");
  return kept_integers(t, "sequences");
}

inline double* kept_seconds(const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Double && t.numel() == int64_t(Part::count) && t.is_contiguous(),
                  "spikeconv: one number of seconds for each part");
  return data<double>(t);
}

// Layers [first, last) of a model's; a stream of so many numbers, and a trace of so many for each layer, or empty ones.
inline Stretch stretch_of(std::array<int64_t, 2> some, int64_t layers, const Tensor& stream, int64_t streamed,
                          const Tensor& trace, int64_t traced, int64_t wanted) {
  const auto [first, last] = some;
  STD_TORCH_CHECK(0 <= first && first < last && last <= layers, "spikeconv: layers ", first, " to ", last, " of ", layers);
  const bool streams = stream.numel() > 0, traces = trace.numel() > 0;
  STD_TORCH_CHECK(streams || (first == 0 && last == layers), "spikeconv: some of the layers go on from a stream");
  STD_TORCH_CHECK(wanted == 0 || last == layers, "spikeconv: logits come behind the last layer");
  return {first, last, streams ? written_floats(stream, streamed, "the stream") : nullptr,
          traces ? written_floats(trace, (last - first) * traced, "the trace") : nullptr};
}

}  // namespace spikeconv
