// The torch ops of spikeconv/ops/attention.py on CUDA: checks and memory; the arithmetic is in rows.cu and attend.cu.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "binding.h"

namespace spikeconv::cuda {
namespace {

RowSettings settings_of(const std::vector<double>& table, int64_t head_dim) {
  STD_TORCH_CHECK(head_dim <= kMaxHeadDim, "spikeconv: keys and values of ", head_dim, " inputs, expected up to ",
                  kMaxHeadDim);
  return RowSettings::from_table(table, head_dim);
}

std::tuple<Tensor, Tensor> encode_rows_op(const Tensor& x, const Tensors& rotation, const std::vector<double>& table,
                                          bool histogram) {
  STD_TORCH_CHECK(!rotation.empty(), "spikeconv: keys and values are rotated");
  const OnDevice device(x);
  const Tensor in = floats(x);
  const RowSettings settings = settings_of(table, in.size(in.dim() - 1));
  RowsJob job{};
  job.shape = settings.shape;
  Tensor rows = torch::stable::new_empty(in, with_last(in, row_bytes(job.shape)), ScalarType::Byte);
  Tensor bins = make_histogram(in, histogram, settings.bins(), settings.range().min, job.histogram);
  if (in.numel() == 0) return {rows, bins};
  job.ratio_count = settings.ratio_count;
  std::copy(settings.ratios, settings.ratios + settings.ratio_count, job.ratios);
  Tensors keep;
  job.transform = transform_of(in, rotation, keep);
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  job.count = tokens_of(in);
  job.rows = data<uint8_t>(rows);
  encode_rows(job, device.stream);
  return {rows, bins};
}

bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && (!a.is_cuda() || a.get_device_index() == b.get_device_index());
}

// A cache's rows as they lie: only the bytes of a row must be contiguous.
Tensor rows_beside(const Tensor& query, const Tensor& rows, const AttendJob& job) {
  STD_TORCH_CHECK(same_device(query, rows), "spikeconv: all tensors of an operator must be on one device");
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Byte && rows.dim() == 4 && rows.size(0) == job.batch &&
                      rows.size(1) == job.key_heads && rows.size(2) == job.length &&
                      rows.size(3) == row_bytes(job.shape),
                  "spikeconv: expected rows uint8 [", job.batch, ", ", job.key_heads, ", ", job.length, ", ",
                  row_bytes(job.shape), "]");
  return rows.stride(3) == 1 ? rows : torch::stable::contiguous(rows);
}

Rows rows_in(const Tensor& rows) { return {data<const uint8_t>(rows), rows.stride(0), rows.stride(1), rows.stride(2)}; }

// Broadcasts by strides of 0; returns the tensor to keep.
Tensor add_mask(const Tensor& query, const Tensor& mask, AttendJob& job) {
  STD_TORCH_CHECK(same_device(query, mask), "spikeconv: all tensors of an operator must be on one device");
  const auto type = mask.scalar_type();
  const bool known = type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
  const Tensor held = known ? mask : torch::stable::to(mask, ScalarType::Float);
  const int64_t wanted[4] = {job.batch, query.size(1), job.tokens, job.length};
  STD_TORCH_CHECK(held.dim() <= 4, "spikeconv: a mask of ", held.dim(), " axes, expected at most 4");
  for (int64_t d = 0, axis = 4 - held.dim(); d < held.dim(); ++d, ++axis) {
    STD_TORCH_CHECK(held.size(d) == 1 || held.size(d) == wanted[axis], "spikeconv: a mask of ", held.size(d),
                    " where ", wanted[axis], " or 1 was expected");
    job.mask_strides[axis] = held.size(d) == 1 ? 0 : held.stride(d);
  }
  job.mask = held.data_ptr();
  job.mask_dtype = dtype_of(held);
  return held;
}

Tensor attend_op(const Tensor& query, const Tensor& keys, const Tensor& values, const OptionalTensor& mask,
                 double scaling, const std::vector<double>& table, const std::string& execution) {
  const OnDevice device(query);
  STD_TORCH_CHECK(query.dim() == 4 && keys.dim() == 4 && keys.size(1) > 0 && query.size(1) % keys.size(1) == 0,
                  "spikeconv: expected queries and keys of 4 axes, and heads that are a multiple of key heads");
  const Tensor q = floats(query);
  AttendJob job{};
  job.shape = settings_of(table, q.size(3)).shape;
  job.batch = narrow(q.size(0));
  job.key_heads = narrow(keys.size(1));
  job.tokens = narrow(q.size(2));
  job.queries = narrow(q.size(1) / keys.size(1) * q.size(2));
  job.length = narrow(keys.size(2));
  const Tensor k = rows_beside(q, keys, job), v = rows_beside(q, values, job);
  if (q.numel() == 0 || job.length == 0) return torch::stable::new_zeros(q, q.sizes(), ScalarType::Float);
  Tensor output = torch::stable::new_empty(q, q.sizes(), ScalarType::Float);
  const Tensor held_mask = mask ? add_mask(q, *mask, job) : q;
  job.query = q.data_ptr();
  job.query_dtype = dtype_of(q);
  job.keys = rows_in(k);
  job.values = rows_in(v);
  job.scaling = float(scaling);
  job.unfold = execution == "unfold";
  Tensor parts = torch::stable::new_empty(q, {attend_workspace(job)}, ScalarType::Float);
  job.parts = data<float>(parts);
  job.output = data<float>(output);
  attend(job, device.stream);
  return output;
}

}  // namespace
}  // namespace spikeconv::cuda

STABLE_TORCH_LIBRARY_IMPL(SPIKECONV_NAMESPACE, SPIKECONV_KEY, m) {
  m.impl("encode_rows", TORCH_BOX(&spikeconv::cuda::encode_rows_op));
  m.impl("attend", TORCH_BOX(&spikeconv::cuda::attend_op));
}
