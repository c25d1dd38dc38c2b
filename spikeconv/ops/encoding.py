"""From a linear's input to spike counts, in plain torch: the oracle of the native encoders.

    u = H D (γ ⊙ RMSNorm(x)) / √m          rotate (SDLLM, section 4.1)
    k = clamp(round(u / s) + z, k_min, k_max)   encode (eq. 9 and 16)

Every sum is taken in the order that `kernels/common/hadamard.h` states, one IEEE operation at a time, so that counts
are the same bits on every back end.
"""

import torch
from torch import Tensor

__all__ = ["clip_potential", "encode", "rms_norm", "rotate", "square_sum"]


def rotate(x: Tensor, signs: Tensor, bases: list[Tensor], power: int) -> Tensor:
    """Block-diagonal randomized Hadamard transform of the last axis, in float32.

    Args:
        x: [..., n], any float dtype.
        signs: [n] float32, ±1.
        bases: square ±1 float32 matrices.
        power: 2^k; a block is the Kronecker product of the bases and Sylvester's matrix of that order, m in all, m | n.

    Returns:
        [..., n] float32; `(H_1 ⊗ H_2 ⊗ … ⊗ H_(2^k)) D x / √m` in each block of m.
    """
    u = x.float() * signs
    distance = 1
    while distance < power:
        a, b = u.reshape(-1, power // (2 * distance), 2, distance).unbind(2)
        u = torch.stack((a + b, a - b), 2)
        distance *= 2
    order = power
    for base in bases:
        order *= base.shape[0]
    inner = order
    for base in bases:
        inner //= base.shape[0]
        u = u.reshape(-1, base.shape[0], inner)
        total = base[:, :1] * u[:, :1]
        for j in range(1, base.shape[0]):
            total = torch.addcmul(total, base[:, j : j + 1], u[:, j : j + 1])  # ±1: the product is exact
        u = total
    return u.reshape(x.shape).mul(order**-0.5)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm of the last axis in float32, γ included: `γ ⊙ x / √(mean(x²) + ε)`."""
    x = x.float().contiguous()
    mean = square_sum(x) / torch.full_like(x[..., :1], x.shape[-1])
    # By way of float64 the root is the correctly rounded one; a float32 library may be off by one unit.
    root = torch.sqrt((mean + epsilon).double()).float()
    return weight.float() * (x * (1 / root))


def clip_potential(u: Tensor, clip: str, threshold: float | Tensor) -> Tensor:
    """u [..., n] with what the threshold τ cuts off set to zero; modes as in `encode`. NaN stays."""
    if clip == "none":
        return u
    keep = (u > threshold) | u.isnan()
    if clip == "relu":
        return torch.where(keep, u, 0)
    if clip == "shifted":
        return torch.where(keep, u - threshold, 0)
    return torch.where(keep, u - threshold, torch.where(u < -threshold, u + threshold, 0))


def encode(
    x: Tensor,
    signs: Tensor | None,
    bases: list[Tensor],
    power: int,
    norm_weight: Tensor | None,
    norm_epsilon: float,
    count_min: int,
    count_max: int,
    symmetric: bool,
    clip_ratio: float,
    clip: str,
    threshold: float,
    with_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integer spike counts with one scale per token, from a linear's input in one step.

    Args:
        x: [..., n], any float dtype.
        signs, bases, power: the rotation, as in `rotate`; no signs, no rotation.
        norm_weight: [n], γ of an RMSNorm in front, or None.
        norm_epsilon: its ε.
        count_min: smallest count.
        count_max: largest count; the clipped maximum of a token lands on it.
        symmetric: True for signed counts; False for counts from 0 with a zero point.
        clip_ratio: share of the token's range that is kept.
        clip: what the threshold τ cuts off: "none"; "relu" u·1[u > τ]; "shifted" max(u - τ, 0); "two-sided"
            sign(u)·max(|u| - τ, 0) (SDLLM, quantile-smoothed ReLU).
        threshold: τ.
        with_statistics: whether to count spikes.

    Returns:
        counts [..., n] int8 (int16 if eight bits do not hold them), scale [..., 1] float32, zero_point [..., 1]
        int32, with u ≈ scale · (counts - zero_point), and statistics int64 [2]: Σ|k| and the number of zero counts
        (empty unless asked for). A token with NaN or infinity keeps a non-finite scale, so that it cannot pass for
        a number.
    """
    u = x.float().contiguous() if norm_weight is None else rms_norm(x, norm_weight, norm_epsilon)
    if signs is not None:
        u = rotate(u, signs, bases, power)
    u = clip_potential(u, clip, threshold)
    # Divisors are tensors: a GPU would turn a number into a multiplication by its reciprocal.
    if symmetric:
        scale = clip_ratio * u.abs().amax(-1, keepdim=True)
        scale = scale / torch.full_like(scale, count_max)
    else:
        low = clip_ratio * u.amin(-1, keepdim=True).clamp_max(0)
        high = clip_ratio * u.amax(-1, keepdim=True).clamp_min(0)
        scale = (high - low) / torch.full_like(low, count_max - count_min)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.zeros_like(scale) if symmetric else (-low / scale).round_()
    counts = (u / scale).round_().add_(zero).clamp_(count_min, count_max).nan_to_num_(0)
    counts = counts.to(torch.int8 if count_min >= -128 and count_max <= 127 else torch.int16)
    statistics = scale.new_zeros(0, dtype=torch.int64)
    if with_statistics:  # int16 keeps |-128|
        zeros = counts.numel() - counts.count_nonzero()
        statistics = torch.stack((counts.short().abs().sum(), zeros))
    return counts, scale, zero.nan_to_num_(0).int(), statistics


def square_sum(x: Tensor) -> Tensor:
    """Σ x² over the last axis as a tree: the upper half of the next power of two is added onto the lower."""
    half = 1 << max(x.shape[-1] - 1, 0).bit_length()
    tree = torch.nn.functional.pad(x * x, (0, half - x.shape[-1]))
    while half > 1:
        half //= 2
        tree = tree[..., :half] + tree[..., half:]
    return tree
