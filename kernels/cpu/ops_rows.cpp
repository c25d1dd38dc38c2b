// The torch ops over rows of counts, keys and values (spikeconv/ops/attention.py), on the CPU: checks and memory.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "../common/tensors.h"
#include "run.h"
#include "tensors.h"

namespace spikeconv {
namespace {

std::tuple<Tensor, Tensor> encode_rows(const Tensor& x, const Tensors& rotation, const std::vector<double>& table,
                                       bool histogram) {
  STD_TORCH_CHECK(!rotation.empty(), "spikeconv: keys and values are rotated");
  const Tensor in = floats(x);
  const int64_t head_dim = in.size(in.dim() - 1);
  const RowSettings settings = RowSettings::from_table(table, head_dim);
  RowsJob job{};
  job.shape = settings.shape;
  job.range = settings.range();
  Tensor rows = make(with_last(in, row_bytes(job.shape)), aoti_torch_dtype_uint8());
  Tensor bins = make_histogram(histogram, settings.bins(), job.range.min, job.histogram);
  if (in.numel() == 0) return {rows, bins};
  Tensors keep;
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.transform = transform_of(head_dim, rotation, keep);
  job.ratios = settings.ratios;
  job.ratio_count = settings.ratio_count;
  job.rows = data<uint8_t>(rows);
  run_encode_rows(job, tokens_of(in));
  return {rows, bins};
}

// A cache's strides are kept; only a row itself must lie in one piece.
RowCache cache_of(const Tensor& rows, const AttendJob& job, Tensors& keep) {
  STD_TORCH_CHECK(rows.dim() == 4 && rows.scalar_type() == ScalarType::Byte && rows.size(0) == job.batch &&
                      rows.size(1) == job.key_heads && rows.size(2) == job.length &&
                      rows.size(3) == row_bytes(job.shape),
                  "spikeconv: keys and values must be bytes [batch, key heads, length, ", row_bytes(job.shape), "]");
  keep.push_back(rows.stride(3) == 1 ? rows : torch::stable::contiguous(rows));
  const Tensor& held = keep.back();
  return {data<const uint8_t>(held), held.stride(0), held.stride(1), held.stride(2), {}};
}

// A mask of up to four axes, each of which is that of the scores or is repeated.
Mask mask_of(const Tensor& mask, const AttendJob& job, bool single, Tensors& keep) {
  const int64_t wanted[] = {job.batch, job.key_heads * job.repeats, job.tokens, job.length};
  const int64_t dims = mask.dim();
  STD_TORCH_CHECK(dims >= 1 && dims <= 4 && mask.size(dims - 1) == job.length,
                  "spikeconv: the mask's last axis must be the keys, ", job.length);
  // Repeated axes cost nothing as long as the keys lie in one piece.
  const bool ready = mask.stride(dims - 1) == 1 && (single ? mask.scalar_type() == ScalarType::Float : is_float(mask));
  keep.push_back(ready ? mask : single ? rows_of(torch::stable::to(mask, ScalarType::Float)) : floats(mask));
  const Tensor& held = keep.back();
  int64_t strides[3] = {};
  for (int64_t d = 0; d < dims - 1; ++d) {
    const int64_t axis = d + 4 - dims;
    STD_TORCH_CHECK(held.size(d) == wanted[axis] || held.size(d) == 1, "spikeconv: the mask has ", held.size(d),
                    " where the scores have ", wanted[axis]);
    if (held.size(d) > 1) strides[axis] = held.stride(d);
  }
  return {held.data_ptr(), dtype_of(held), strides[0], strides[1], strides[2]};
}

Tensor attend(const Tensor& query, const Tensor& keys, const Tensor& values, const OptionalTensor& mask, double scaling,
              const std::vector<double>& table, const std::string& execution) {
  const bool unfolds = execution == "unfold";
  STD_TORCH_CHECK(query.dim() == 4 && keys.dim() == 4 && keys.size(1) > 0 && query.size(1) % keys.size(1) == 0,
                  "spikeconv: a query must be [batch, heads, tokens, head_dim], its heads a multiple of key heads");
  const Tensor in = unfolds ? rows_of(torch::stable::to(query, ScalarType::Float)) : floats(query);
  AttendJob job{};
  job.shape = RowSettings::from_table(table, in.size(3)).shape;
  job.query = in.data_ptr();
  job.dtype = dtype_of(in);
  job.scaling = float(scaling);
  job.batch = in.size(0);
  job.key_heads = keys.size(1);
  job.repeats = in.size(1) / job.key_heads;
  job.tokens = in.size(2);
  job.length = keys.size(2);
  job.token_stride = in.size(3);
  job.head_stride = job.tokens * job.token_stride;
  job.batch_stride = in.size(1) * job.head_stride;
  Tensors keep;
  job.keys = cache_of(keys, job, keep);
  job.values = cache_of(values, job, keep);
  if (mask) job.mask = mask_of(*mask, job, unfolds, keep);
  Tensor output = make(shape_of(in), aoti_torch_dtype_float32());
  if (job.length == 0) std::memset(output.data_ptr(), 0, size_t(output.numel()) * sizeof(float));
  if (job.length == 0 || output.numel() == 0) return output;
  job.output = data<float>(output);
  if (unfolds)
    run_attend_unfold(job);
  else
    run_attend({&job, 1});
  return output;
}

}  // namespace
}  // namespace spikeconv

STABLE_TORCH_LIBRARY_IMPL(spikeconv, CPU, m) {
  m.impl("encode_rows", TORCH_BOX(&spikeconv::encode_rows));
  m.impl("attend", TORCH_BOX(&spikeconv::attend));
}
