"""RWKV's linear attention in a few large steps, where the definition is a loop over tokens. All of it differentiable.

RWKV-4 has one scalar state per channel, with an exponent of its own: √T chunks are read side by side, then the state is
handed from one to the next. RWKV-6 and -7 have a matrix per head: inside a chunk the decay between two tokens is a
ratio of running products, so that all pairs come out of one product of matrices.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["WkvState", "wkv4", "wkv6", "wkv7"]

CHUNK = 16
STRONGEST = 40.0
"""Largest -ln(decay) of a token in RWKV-6: to float32 e^-40 is as good as 0, and 16 of them do not overflow float64."""

EMPTY = -1e38
"""Exponent of an empty sum; finite, so that differences stay numbers."""

WkvState = tuple[Tensor, Tensor, Tensor]
"""RWKV-4: numerator and denominator, each to be scaled by e^exponent, and that exponent; [batch, channels] float32."""


def wkv4(
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, state: WkvState | None = None
) -> tuple[Tensor, WkvState]:
    """RWKV-4's attention, one scalar state per channel (Peng et al. 2023).

        y_t = (N_(t-1) + e^(u + k_t) v_t) / (D_(t-1) + e^(u + k_t)),   N_t = e^-w N_(t-1) + e^(k_t) v_t   (D alike)

    Args:
        time_decay: [channels], ln w.
        time_first: [channels], u.
        key: [batch, tokens, channels].
        value: the same.
        state: where an earlier call ended.

    Returns:
        y in the dtype of `value`, and the state after the last token.
    """
    tokens = key.shape[1]
    w, u = time_decay.float().exp(), time_first.float()
    length = math.isqrt(tokens - 1) + 1
    keys, values = (_in_chunks(x.float(), 1, length, filler) for x, filler in ((key, EMPTY), (value, 0.0)))
    pairs = list(zip(keys.unbind(2), values.unbind(2), strict=True))  # of every chunk at once
    zero = torch.zeros_like(keys[:, :, 0])
    empty: WkvState = (zero, zero, zero + EMPTY)
    alone = empty  # what every chunk adds by itself
    for k, v in pairs:
        alone = _with(_decayed(alone, w), k, v)
    carried = [_map(lambda part: part[:, 0], empty) if state is None else state]
    for chunk in zip(*_map(lambda part: part.transpose(0, 1), alone), strict=True):
        carried.append(_sum(_decayed(carried[-1], w * length), chunk))
    now, outputs = _stack(carried[:-1]), []
    for step, (k, v) in enumerate(pairs):
        numerator, denominator, _ = _with(now, u + k, v)
        outputs.append(numerator / denominator)
        now = _with(_decayed(now, w), k, v)
        if step == (tokens - 1) % length:
            end = _map(lambda part: part[:, -1], now)
    y = torch.stack(outputs, 2).flatten(1, 2)[:, :tokens]
    return y.to(value.dtype), end


def _decayed(state: WkvState, by: Tensor) -> WkvState:
    numerator, denominator, exponent = state
    return numerator, denominator, exponent - by


def _with(state: WkvState, key: Tensor, value: Tensor) -> WkvState:
    """A state and e^key value. No gradient flows through the exponent, which only scales."""
    numerator, denominator, exponent = state
    top = torch.maximum(exponent, key).detach()
    old, new = (exponent - top).exp(), (key - top).exp()
    return torch.addcmul(numerator * old, new, value), torch.addcmul(new, denominator, old), top


def _sum(a: WkvState, b: WkvState) -> WkvState:
    top = torch.maximum(a[2], b[2]).detach()
    of_a, of_b = (a[2] - top).exp(), (b[2] - top).exp()
    return a[0] * of_a + b[0] * of_b, a[1] * of_a + b[1] * of_b, top


def _map(change: Callable[[Tensor], Tensor], state: WkvState) -> WkvState:
    return change(state[0]), change(state[1]), change(state[2])


def _stack(states: Sequence[WkvState]) -> WkvState:
    numerators, denominators, exponents = zip(*states, strict=True)
    return torch.stack(numerators, 1), torch.stack(denominators, 1), torch.stack(exponents, 1)


def wkv6(
    receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, time_first: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RWKV-6's attention with a matrix-valued state (Peng et al. 2024).

        y_t = r_t (S_(t-1) + (u ⊙ k_t)ᵀ v_t),   S_t = diag(e^(log_decay_t)) S_(t-1) + k_tᵀ v_t

    Args:
        receptance: [batch, tokens, heads, K].
        key: the same.
        value: [batch, tokens, heads, V].
        log_decay: [batch, tokens, heads, K], negative.
        time_first: [heads, K], u.
        state: [batch, heads, K, V], where an earlier call ended.

    Returns:
        y [batch, tokens, heads, V] and the state after the last token, float32.
    """
    r, k, v, decay = (_in_chunks(x.float().transpose(1, 2), 2) for x in (receptance, key, value, log_decay))
    after = decay.clamp_min(-STRONGEST).double().cumsum(-2)  # [batch, heads, chunks, CHUNK, K]
    before = pad(after, (0, 0, 1, -1))
    decayed = r * before.exp()
    pairs = (decayed @ (k * (-after).exp()).mT).tril(-1).float()
    own = (r * time_first.float()[:, None, None] * k).sum(-1, keepdim=True)
    end = after[..., -1:, :]
    added = (k * (end - after).exp().float()).mT @ v
    starts = _carry(state, end.float().exp().mT, added)
    y = pairs @ v + own * v + decayed.float() @ starts[:, :, :-1]
    return _joined(y, receptance.shape[1]), starts[:, :, -1]


def wkv7(
    receptance: Tensor, log_decay: Tensor, key: Tensor, value: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RWKV-7's attention: RWKV-6's state, of which every token also rewrites a part (Peng et al. 2025).

        y_t = r_t S_t,   S_t = (diag(e^(log_decay_t)) + b_tᵀ a_t) S_(t-1) + k_tᵀ v_t

    With c_t = a_t S_(t-1) the rewriting is one more pair of key and value, b_tᵀ c_t; inside a chunk the c solve a
    triangular system.

    Args:
        receptance: [batch, tokens, heads, K].
        log_decay: the same, from -e^(-1/2) to 0.
        key: the same.
        value: [batch, tokens, heads, V].
        a: as `key`.
        b: as `key`.
        state: [batch, heads, K, V], where an earlier call ended.

    Returns:
        y [batch, tokens, heads, V] and the state after the last token, float32.
    """
    inputs = (receptance, log_decay, key, value, a, b)
    r, decay, k, v, a, b = (_in_chunks(x.float().transpose(1, 2), 2) for x in inputs)
    after = decay.cumsum(-2)  # above -0.61 · CHUNK, so that float32 holds its inverse
    before = pad(after, (0, 0, 1, -1))
    reads, keys, rewrites = a * before.exp(), k * (-after).exp(), b * (-after).exp()
    system = torch.eye(CHUNK, dtype=r.dtype, device=r.device) - (reads @ rewrites.mT).tril(-1)
    known = torch.cat((reads, (reads @ keys.mT).tril(-1) @ v), -1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    of_start, of_chunk = solved.split((r.shape[-1], v.shape[-1]), -1)  # c = of_start @ S + of_chunk
    end = after[..., -1:, :]
    rest = (end - after).exp()
    added = (k * rest).mT @ v + (b * rest).mT @ of_chunk
    moved = torch.diag_embed(end.squeeze(-2).exp()) + (b * rest).mT @ of_start
    starts = _carry(state, moved, added, torch.matmul)
    at_start = starts[:, :, :-1]
    c = of_start @ at_start + of_chunk
    decayed = r * after.exp()
    y = decayed @ at_start + (decayed @ keys.mT).tril() @ v + (decayed @ rewrites.mT).tril() @ c
    return _joined(y, receptance.shape[1]), starts[:, :, -1]


def _in_chunks(x: Tensor, axis: int, length: int = CHUNK, filler: float = 0.0) -> Tensor:
    """Cuts the axis of tokens, followed by one of channels, into [chunks, length]; the last chunk is filled up."""
    missing = -x.shape[axis] % length
    chunks: Tensor = pad(x, (0, 0, 0, missing), value=filler).unflatten(axis, (-1, length))
    return chunks


def _joined(y: Tensor, tokens: int) -> Tensor:
    """[batch, heads, chunks, CHUNK, V] back to [batch, tokens, heads, V]."""
    return y.flatten(2, 3)[:, :, :tokens].transpose(1, 2)


def _carry(
    state: Tensor | None, decays: Tensor, added: Tensor, decay: Callable[[Tensor, Tensor], Tensor] = torch.mul
) -> Tensor:
    """States [batch, heads, chunks + 1, K, V] before every chunk and after the last: S ← decay(D, S) + added."""
    states = [torch.zeros_like(added[:, :, 0]) if state is None else state.float()]
    for by, update in zip(decays.unbind(2), added.unbind(2), strict=True):
        states.append(decay(by, states[-1]) + update)
    return torch.stack(states, 2)
