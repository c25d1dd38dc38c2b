"""Native calls of a whole model: its plan, a forward of it, and its output head. There is no reference for them: what
the modules compute is.

The kernels must be loaded (`native.load`).
"""

import torch
from torch import Tensor

__all__ = ["float_head", "head_likelihoods", "plan_model", "plan_recurrent", "run_model", "run_recurrent"]


def plan_model(
    sizes: list[int],
    numbers: list[float],
    tensors: list[Tensor | None],
    groups: list[Tensor],
    head_norms: list[Tensor],
    rows: list[float],
    rotation: list[Tensor],
    inverse: list[Tensor],
) -> Tensor:
    """A whole decoder as one tensor for `run_model`; CPU only. It points to the tensors given, which must outlive it.

    Args:
        sizes: layers, hidden, heads, key heads, head_dim, intermediate, vocabulary, positions; then each layer's window
            (keys that a token sees; 0: all).
        numbers: scaling of scores, ε of the last norm, ε of the norms of queries and keys.
        tensors: embedding (float32 or bfloat16), cos, sin, the last norm; the head's weight, scale and bias or None, as
            in `float_head`.
        groups: plans of q|k|v, output, gate|up, down of each layer.
        head_norms: of queries and keys of each layer, or none.
        rows: `RowSettings.table()` of keys and values; empty where they are floats.
        rotation, inverse: of a head of them, as `rotate` takes them; the inverse's signs come behind it.
    """
    plan: Tensor = torch.ops.spikeconv.plan_model(sizes, numbers, tensors, groups, head_norms, rows, rotation, inverse)
    return plan


def run_model(
    plan: Tensor,
    tokens: Tensor,
    sequences: Tensor,
    keys: Tensor,
    values: Tensor,
    wanted: Tensor,
    wants_logits: bool,
    seconds: Tensor,
    layers: tuple[int, int],
    stream: Tensor,
    trace: Tensor,
) -> Tensor:
    """Logits float32 [R, vocabulary] of a forward, or what the head reads [R, hidden].

    Args:
        plan: of `plan_model`.
        tokens: int64 [T], of all sequences, one after the other.
        sequences: int64 [S, 8]: first token, tokens, slot, place of the first key, first key that there is, position,
            first key that is not shared with others, rows of the slot that lie before it and are not this one's.
        keys, values: float32 or bfloat16 [layers, slots, key heads, capacity, head_dim], or uint8 [..., row_bytes];
            written to.
        wanted: int64 [R], rows of `tokens`; none where the last layer is not run.
        wants_logits: whether logits are wanted.
        seconds: float64 [5], what encoding, products, attention, head and the rest took is added.
        layers: the first that is run, and the one behind the last.
        stream: float32 [T, hidden], what goes into the first layer (unless that is the model's), replaced by what
            comes out of the last; may be empty where all layers are run.
        trace: float32 [layers, T, width] to be filled with what was computed on the way, or empty.
    """
    tokens = tokens.contiguous()  # a column of a batch has gaps
    logits: Tensor = torch.ops.spikeconv.run_model.default(
        plan, tokens, sequences, keys, values, wanted, wants_logits, seconds, *layers, stream, trace
    )
    return logits


def plan_recurrent(
    sizes: list[int],
    epsilons: list[float],
    tensors: list[Tensor | None],
    norms: list[Tensor],
    groups: list[Tensor],
    vectors: list[Tensor | None],
) -> Tensor:
    """A whole RWKV-4 or -6 as one tensor for `run_recurrent`; CPU only. It points to the tensors given.

    Args:
        sizes: layers, hidden, intermediate, vocabulary; heads and the ranks of what mixes and decay are computed of, or
            0 three times for RWKV-4.
        epsilons: ε of the norms in front of the first layer and of the head, then of the two of each layer (RWKV-6: and
            that of its heads).
        tensors: embedding (float32 or bfloat16); the head's weight, scale and bias or None, as in `float_head`.
        norms: weight and bias of each of these norms.
        groups: plans of key, value, receptance (RWKV-6: gate) and output of time mixing, key, receptance and value of
            channel mixing, of each layer.
        vectors: of each of these what mixes its input with the token before, its center and its balance, or None;
            behind those of a layer w and u of the recurrence, [hidden]. RWKV-6 has ln -ln w of no token's own in place
            of w, then the first mix [hidden], matrices [5 · rank, hidden] and [5, hidden, rank], five mixes
            [5, hidden], matrices [rank, hidden] and [hidden, rank] of the decay.
    """
    plan: Tensor = torch.ops.spikeconv.plan_recurrent(sizes, epsilons, tensors, norms, groups, vectors)
    return plan


def run_recurrent(
    plan: Tensor,
    tokens: Tensor,
    texts: Tensor,
    state: list[Tensor],
    wanted: Tensor,
    wants_logits: bool,
    seconds: Tensor,
    layers: tuple[int, int],
    stream: Tensor,
    trace: Tensor,
) -> Tensor:
    """`run_model` of a plan of `plan_recurrent`.

    Args:
        texts: int64 [S, 3]: first token, tokens, slot.
        state: five tensors float32 [slots, hidden, layers], written to; channels lie side by side, slot behind slot.
            RWKV-6: two of these, and [layers, slots, heads, head_size, head_size].
        plan, tokens, wanted, wants_logits, seconds, layers, stream, trace: as of `run_model`.
    """
    tokens = tokens.contiguous()
    logits: Tensor = torch.ops.spikeconv.run_recurrent.default(
        plan, tokens, texts, state, wanted, wants_logits, seconds, *layers, stream, trace
    )
    return logits


def float_head(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias in float32.

    Args:
        x: float32 [..., n] on the CPU.
        weight: contiguous float32, bfloat16 or int8 [outputs, n].
        scale: beside int8 float32 [outputs, n / 32], what 32 weights are multiplied with; else None.
        bias: float32 [outputs] or None.

    Returns:
        float32 [..., outputs].
    """
    y: Tensor = torch.ops.spikeconv.float_head.default(x, weight, scale, bias)
    return y


def head_likelihoods(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, rows: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """How likely some tokens are, log softmax(x · weightᵀ + bias), without logits in memory.

    Args:
        x: float32 [R, n] on the CPU.
        weight, scale, bias: as of `float_head`.
        rows, tokens: int64 [Q], a row of x and a token for each likelihood that is asked for.

    Returns:
        float64 [Q], and bool [Q]: whether it is the first of the tokens with the row's highest logit. The same bits for
        any number of threads.
    """
    found: tuple[Tensor, Tensor] = torch.ops.spikeconv.head_likelihoods.default(
        x, weight, scale, bias, rows.contiguous(), tokens.contiguous()
    )
    return found
