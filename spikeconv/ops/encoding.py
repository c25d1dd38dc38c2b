"""From a linear's input to spike counts, in plain torch: the oracle of the native encoders.

    u = H D (γ ⊙ RMSNorm(x)) / √m          rotate (SDLLM, section 4.1)
    k = clamp(round(u / s) + z, k_min, k_max)   encode (eq. 9 and 16)

Every sum is taken in the order that `kernels/common/hadamard.h` states, one IEEE operation at a time, so that counts
are the same bits on every back end.
"""

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.ops.settings import EncodeSettings

__all__ = ["clip_potential", "encode", "histogram_of", "rms_norm", "rotate", "square_sum"]


def rotate(x: Tensor, rotation: list[Tensor]) -> Tensor:
    """Block-diagonal randomized Hadamard transform of the last axis, in float32.

    Args:
        x: [..., n], any float dtype.
        rotation: signs [n / 2^k, 2^k] float32, ±1, then any number of square ±1 float32 matrices H_1, H_2, …. A block
            is the Kronecker product of the matrices and Sylvester's matrix of order 2^k, m in all, m | n.

    Returns:
        [..., n] float32; `(H_1 ⊗ H_2 ⊗ … ⊗ H_(2^k)) D x / √m` in each block of m.
    """
    signs, *bases = rotation
    power = signs.shape[1]
    u = x.float() * signs.flatten()
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
    return weight.float() * (x * (1 / root_mean_square(x, epsilon)))


def root_mean_square(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """√(mean(x²) + ε) of the last axis of float32 x [..., n], [..., 1]."""
    mean = square_sum(x) / torch.full_like(x[..., :1], x.shape[-1])
    # By way of float64 the root is the correctly rounded one; a float32 library may be off by one unit.
    return torch.sqrt((mean + epsilon).double()).float()


def mean_magnitude(x: Tensor) -> Tensor:
    """Mean |x| over the last axis, [..., 1]."""
    return tree_sum(x.abs()) / torch.full_like(x[..., :1], x.shape[-1])


def clip_potential(u: Tensor, clip: str, threshold: float | Tensor) -> Tensor:
    """u [..., n] with what the threshold τ cuts off set to zero; `clip` is one of `settings.CLIPS`. NaN stays."""
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
    rotation: list[Tensor],
    norm_weight: Tensor | None,
    threshold: Tensor | None,
    settings: list[float],
    histogram: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integer spike counts with one scale per token, from a linear's input in one step.

    Args:
        x: [..., n], any float dtype.
        rotation: as in `rotate`; empty: none.
        norm_weight: [n], γ of an RMSNorm in front, or None.
        threshold: τ of the clip, one float32; None where nothing is clipped.
        settings: `EncodeSettings.table()`.
        histogram: whether to count the counts.

    Returns:
        counts [..., n] int8 (int16 if eight bits do not hold them), scale [..., 1] float32, zero_point [..., 1]
        int32, with u ≈ scale · (counts - zero_point), and a histogram int64 [count_max - count_min + 1], whose bin i
        is how many counts are `count_min + i` ([0] unless asked for). A token with NaN or infinity keeps a non-finite
        scale, so that it cannot pass for a number.
    """
    chosen = EncodeSettings.of(settings)
    if (chosen.clip == "none") != (threshold is None):
        raise SpikeconvError("A membrane clip and its threshold come together; one of them is missing.")
    u = x.float().contiguous() if norm_weight is None else rms_norm(x, norm_weight, chosen.norm_epsilon)
    if rotation:
        u = rotate(u, rotation)
    if threshold is not None:
        u = clip_potential(u, chosen.clip, threshold.reshape(()))
    # Divisors are tensors: a GPU would turn a number into a multiplication by its reciprocal.
    if chosen.symmetric:
        scale = chosen.clip_ratio * u.abs().amax(-1, keepdim=True)
        scale = scale / torch.full_like(scale, chosen.count_max)
    else:
        low = chosen.clip_ratio * u.amin(-1, keepdim=True).clamp_max(0)
        high = chosen.clip_ratio * u.amax(-1, keepdim=True).clamp_min(0)
        scale = (high - low) / torch.full_like(low, chosen.count_max - chosen.count_min)
    dead = torch.zeros_like(scale)
    if chosen.step or chosen.dead_zone:
        unit = mean_magnitude(u) if chosen.by_mean else root_mean_square(u)
        fine = chosen.step * unit
        reaching = (scale > fine) & bool(chosen.step)
        scale = torch.where(reaching, scale, fine) if chosen.step else scale
        dead = torch.where(reaching, dead, chosen.dead_zone * unit)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.zeros_like(scale) if chosen.symmetric else (-low / scale).round_()
    counts = (u / scale).round_().add_(zero).clamp_(chosen.count_min, chosen.count_max).nan_to_num_(0)
    if chosen.dead_zone:
        counts = _zoned(counts, u.abs(), dead, scale, chosen.one_spike)
    counts = counts.to(torch.int16 if chosen.is_wide else torch.int8)
    bins = histogram_of(counts, chosen.count_min, chosen.bins if histogram else 0)
    return counts, scale, zero.nan_to_num_(0).int(), bins


def _zoned(counts: Tensor, size: Tensor, dead: Tensor, scale: Tensor, one_spike: int) -> Tensor:
    """Counts without those of |u| < dead, and with no more than one spike for |u| < one_spike · scale + dead."""
    if one_spike:
        near = one_spike * scale + dead
        counts = torch.where((size < near) & (dead > 0), counts.clamp(-one_spike, one_spike), counts)
    return torch.where(size < dead, 0.0, counts)


def histogram_of(counts: Tensor, lowest: int, bins: int) -> Tensor:
    """int64 [bins]: how many counts are `lowest`, `lowest + 1`, …; [0] without looking at them for 0 bins."""
    if not bins:
        return counts.new_zeros(0, dtype=torch.int64)
    return (counts.flatten().long() - lowest).bincount(minlength=bins)


def square_sum(x: Tensor) -> Tensor:
    """Σ x² over the last axis, as `tree_sum`."""
    return tree_sum(x * x)


def tree_sum(x: Tensor) -> Tensor:
    """Σ x over the last axis as a tree: the upper half of the next power of two is added onto the lower."""
    half = 1 << max(x.shape[-1] - 1, 0).bit_length()
    tree = torch.nn.functional.pad(x, (0, half - x.shape[-1]))
    while half > 1:
        half //= 2
        tree = tree[..., :half] + tree[..., half:]
    return tree
