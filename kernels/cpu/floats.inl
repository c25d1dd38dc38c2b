// Rows of floats as they are held (float32, bfloat16, or int8 and a scale for a block) as float32.

// kLanes whole numbers as floats.
SPIKECONV_HD Floats floats_of(const int8_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
  Floats wide;
  for (int lane = 0; lane < kLanes; ++lane) wide[lane] = float(from[lane]);
  return wide;
#endif
}

void widen_blocks(const int8_t* from, const float* scales, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kLanes) store(to + i, floats_of(from + i) * splat(scales[i / kScaled]));
}

// Rows [begin, begin + n) of `size` floats: where they lie, or widened into `room`.
const float* open_floats(const FloatRows& rows, int64_t begin, int64_t n, int64_t size, float* room, int64_t* stride) {
  if (rows.dtype == Dtype::float32) {
    *stride = rows.stride;
    return static_cast<const float*>(rows.data) + begin * rows.stride;
  }
  *stride = size;
  for (int64_t i = begin; i < begin + n; ++i, room += size)
    if (rows.dtype == Dtype::int8)
      widen_blocks(static_cast<const int8_t*>(rows.data) + i * size, rows.scales + i * (size / kScaled), size, room);
    else
      load_row(rows.data, rows.dtype, i * rows.stride, size, room);
  return room - n * size;
}

// Inputs [i, i + steps) of rows [o, o + count) of a head as floats: where they lie, or widened into `room`.
const float* open_block(const FloatRows& weight, int64_t o, int64_t count, int64_t i, int64_t steps, float* room,
                        int64_t* stride) {
  *stride = weight.dtype == Dtype::float32 ? weight.stride : steps;
  if (weight.dtype == Dtype::float32) return static_cast<const float*>(weight.data) + o * weight.stride + i;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t at = (o + r) * weight.stride + i;
    if (weight.dtype == Dtype::int8)
      widen_blocks(static_cast<const int8_t*>(weight.data) + at, weight.scales + at / kScaled, steps, room + r * steps);
    else
      load_row(weight.data, weight.dtype, at, steps, room + r * steps);
  }
  return room;
}
