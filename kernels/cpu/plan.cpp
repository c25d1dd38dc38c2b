#include "plan.h"

#include <cstring>

namespace spikeconv {
Tensors run_group(const Tensor& x, const Tensor& bytes) {
  STD_TORCH_CHECK(bytes.numel() == int64_t(sizeof(GroupPlan)), "spikeconv: not a plan of this library");
  GroupPlan plan;
  std::memcpy(&plan, bytes.data_ptr(), sizeof(plan));
  const Tensor in = floats(x);
  EncodeJob& job = plan.job;
  const Counts counts{nullptr, tokens_of(in), job.transform.size, job.wide};
  STD_TORCH_CHECK(in.size(in.dim() - 1) == counts.in_features, "spikeconv: inputs of another size than the plan's");
  // Scales and zero points first, for their alignment.
  static thread_local Scratch memory;
  const int64_t count_bytes = counts.tokens * counts.in_features * (job.wide ? 2 : 1);
  job.scale = static_cast<float*>(memory.bytes(counts.tokens * 8 + count_bytes));
  job.zero = reinterpret_cast<int32_t*>(job.scale + counts.tokens);
  job.counts = job.zero + counts.tokens;
  job.x = in.data_ptr();
  job.dtype = dtype_of(in);
  const std::span<Member> members(plan.members, size_t(plan.member_count));
  const Tensors outputs =
      make_outputs(in, x.scalar_type(), job.scale, job.range.symmetric ? nullptr : job.zero, members);
  run_encode(job, counts.tokens);
  run_products({job.counts, counts.tokens, counts.in_features, counts.wide}, plan.products, members);
  return outputs;
}

}  // namespace spikeconv
