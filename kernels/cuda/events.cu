// Event-driven product: only the columns of inputs that fired are read. int32 addition has no order, so the atomics of
// many blocks give the same bits as any other execution.
//
// A block has one token, a slice of its inputs and 1,024 outputs. It lists the slice's non-zero counts in shared memory
// by ballots; then each thread adds up 8 outputs over the listed columns and sends its sums off.
#include "launch.h"
#include "output.h"
#include "reduce.h"

namespace spikeconv::cuda {
namespace {

constexpr int kThreads = 128, kThreadOutputs = 8, kPieceOutputs = kThreads * kThreadOutputs;

struct Fired {
  int index[kThreads];  // input, relative to the slice
  int count[kThreads];
  int fired[kThreads / kWarp], sum[kThreads / kWarp];  // per warp
};

// Lists the non-zero counts of inputs [first, first + size), one per thread, in ascending order. → their number.
template <class Count>
SPIKECONV_DEVICE int list_fired(const Count* row, int first, int size, Fired& list, int& sum) {
  const int t = int(threadIdx.x), lane = t % kWarp, warp = t / kWarp;
  const int count = t < size ? int(row[first + t]) : 0;
  const uint32_t votes = ballot(count != 0);
  int warp_sum = count;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) warp_sum += shuffle_xor(warp_sum, mask);
  if (lane == 0) {
    list.fired[warp] = bit_count(votes);
    list.sum[warp] = warp_sum;
  }
  __syncthreads();
  int place = bit_count(votes & ((1u << lane) - 1)), fired = 0;
  sum = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) place += list.fired[w];
    fired += list.fired[w];
    sum += list.sum[w];
  }
  if (count != 0) {
    list.index[place] = t;
    list.count[place] = count;
  }
  __syncthreads();
  return fired;
}

// `bytes` (at most 4) bytes of a column as a word; zeros behind them.
SPIKECONV_DEVICE uint32_t column_word(const uint8_t* p, int64_t bytes, bool aligned) {
  if (aligned && bytes >= 4) return load_constant(reinterpret_cast<const uint32_t*>(p));
  uint32_t word = 0;
#pragma unroll
  for (int b = 0; b < 4; ++b)
    if (b < bytes) word |= uint32_t(load_constant(p + b)) << 8 * b;
  return word;
}

template <class Count, bool nibble>
__global__ void __launch_bounds__(kThreads, 6)
events_kernel(SPIKECONV_PARAMETER Members members, SPIKECONV_PARAMETER Counts counts, int slice, int64_t first_token) {
  __shared__ Fired list;
  constexpr int kWords = nibble ? 1 : 2, kPerWord = nibble ? 8 : 4, kBitsEach = 32 / kPerWord;
  // Pieces of the same slice are neighbours, then slices of the same token.
  const unsigned pieces = unsigned(members.first[members.count]);
  const unsigned slices = unsigned(counts.in_features + slice - 1) / unsigned(slice);
  const int64_t piece = blockIdx.x % pieces, token = first_token + blockIdx.x / pieces / slices;
  const int first = int(blockIdx.x / pieces % slices) * slice;
  const int m = member_of(members, piece);
  const Member& member = members.member[m];
  const Weight& w = member.weight;
  const int left = counts.in_features - first, size = left < slice ? left : slice;
  int count_sum;
  const Count* row = static_cast<const Count*>(counts.data) + token * counts.in_features;
  const int fired = list_fired(row, first, size, list, count_sum);
  const int64_t o = (piece - members.first[m]) * kPieceOutputs + int64_t(threadIdx.x) * kThreadOutputs;
  if (o >= w.out_features || fired == 0) return;

  const int64_t byte = nibble ? o / 2 : o, bytes = (nibble ? ceil_div(w.out_features, 2) : w.out_features) - byte;
  const uint8_t* columns = w.data + first * w.stride + byte;
  const bool aligned = reinterpret_cast<uintptr_t>(w.data) % 4 == 0 && w.stride % 4 == 0;
  int32_t acc[kThreadOutputs] = {};
#pragma unroll 8
  for (int e = 0; e < fired; ++e) {
    const uint8_t* column = columns + list.index[e] * w.stride;
    const int count = list.count[e];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const uint32_t word = column_word(column + 4 * i, bytes - 4 * i, aligned);
#pragma unroll
      for (int j = 0; j < kPerWord; ++j)
        acc[i * kPerWord + j] += count * int32_t(word >> kBitsEach * j & ((1u << kBitsEach) - 1));
    }
  }
  int32_t* to = member.acc + token * w.out_features + o;
#pragma unroll
  for (int j = 0; j < kThreadOutputs; ++j)
    if (o + j < w.out_features) atomic_add(to + j, without_offset(acc[j], count_sum, w.bits));
}

// Accumulators → outputs. A block has one token and kThreads outputs.
__global__ void __launch_bounds__(kThreads)
events_output_kernel(SPIKECONV_PARAMETER Members members, int64_t first_token) {
  const unsigned pieces = unsigned(members.first[members.count]);
  const int64_t piece = blockIdx.x % pieces, token = first_token + blockIdx.x / pieces;
  const int m = member_of(members, piece);
  const Member& member = members.member[m];
  const int64_t o = (piece - members.first[m]) * kThreads + threadIdx.x;
  if (o < member.weight.out_features)
    write_output(member, token, o, member.acc[token * member.weight.out_features + o]);
}

void share_out(Members& members, int outputs) {
  members.first[0] = 0;
  for (int m = 0; m < members.count; ++m)
    members.first[m + 1] = members.first[m] + ceil_div(members.member[m].weight.out_features, outputs);
}

// Inputs of a slice: as many as give every multiprocessor something to do.
int slice_of(const Counts& counts, int64_t pieces) {
  int slice = kThreads;
  const int64_t wanted = 2 * multiprocessors(), each = counts.tokens * pieces;
  while (slice > kWarp && each * ceil_div(counts.in_features, slice) < wanted) slice /= 2;
  return slice;
}

}  // namespace

void events(Members members, const Counts& counts, void* stream) {
  share_out(members, kPieceOutputs);
  const bool nibble = is_nibble(members.member[0].weight.bits);
  const int64_t pieces = members.first[members.count];
  const int slice = slice_of(counts, pieces);
  const auto kernel = counts.wide ? (nibble ? events_kernel<int16_t, true> : events_kernel<int16_t, false>)
                                  : (nibble ? events_kernel<int8_t, true> : events_kernel<int8_t, false>);
  const int64_t per_token = pieces * ceil_div(counts.in_features, slice);
  const int64_t at_once = per_token ? ceil_div(kMaxBlocks / 2, per_token) : counts.tokens;
  for (int64_t t = 0; t < counts.tokens; t += at_once) {
    const int64_t tokens = counts.tokens - t < at_once ? counts.tokens - t : at_once;
    launch(kernel, tokens * per_token, kThreads, 0, stream, members, counts, slice, t);
  }
  // int32 accumulators were added up where they belong.
  if (!members.member[0].output.scale) return;
  share_out(members, kThreads);
  const int64_t blocks = members.first[members.count];
  const int64_t rows_at_once = blocks ? ceil_div(kMaxBlocks / 2, blocks) : counts.tokens;
  for (int64_t t = 0; t < counts.tokens; t += rows_at_once) {
    const int64_t tokens = counts.tokens - t < rows_at_once ? counts.tokens - t : rows_at_once;
    launch(events_output_kernel, tokens * blocks, kThreads, 0, stream, members, t);
  }
}

}  // namespace spikeconv::cuda
