"""Gradients are those of the rotated float linear that the integers stand for: straight through the rounding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv import ops
from spikeconv.config import SpikeConfig
from spikeconv.nn import FoldedNorm, KvCode, SpikeGroup, SpikeLinear, set_execution, spike_linears

MakeLinear = Callable[..., Any]


class Centre:
    """A LayerNorm's bias."""

    def __init__(self) -> None:
        self.bias = torch.nn.Parameter(torch.randn(72))


def clipped(u: Tensor, mode: str, threshold: float) -> Tensor:
    if mode == "relu":
        return u * (u > threshold)
    if mode == "shifted":
        return torch.relu(u - threshold)
    return torch.relu(u - threshold) - torch.relu(-u - threshold)


def written_out(linears: list[Any], x: Tensor) -> list[Tensor]:
    """y = W_q clip(R γ x / √(mean(x²) + ε)) + b in plain torch, with R and W_q as matrices."""
    encoder, scheme = linears[0].encoder, linears[0].scheme
    u = x if encoder.center is None else x - encoder.center.bias
    if encoder.norm is not None:
        u = encoder.norm.weight * u * (u.pow(2).mean(-1, keepdim=True) + encoder.norm.epsilon).rsqrt()
    if encoder.rotation is not None:
        u = u @ encoder.rotation(torch.eye(u.shape[-1]))
    u = u if scheme.clip is None else clipped(u, scheme.clip.mode, THRESHOLD)
    products = [u @ linear.float_weight().detach().mT for linear in linears]
    return [y if linear.bias is None else y + linear.bias for y, linear in zip(products, linears, strict=True)]


THRESHOLD = 0.4

SETTINGS: list[dict[str, Any]] = [
    {},
    {"bits": "4-1"},
    {"bits": "8-8", "rotation": "none"},
    {"bits": "16-8"},
    {"bits": "8-16"},
    {"bits": "16-16"},
    {"codec": "multihead", "bits": "4-1.58"},
    *({"inputs.clip": {"mode": mode}} for mode in ("relu", "shifted", "two-sided")),
    {"bits": "4-16", "inputs.clip": {"mode": "two-sided"}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_are_those_of_the_formula(settings: dict[str, Any], make_linear: MakeLinear) -> None:
    scheme = SpikeConfig.parse(settings)
    for norm, centre, execution in (
        (None, None, "auto"),
        (FoldedNorm(torch.nn.Parameter(torch.ones(72)), 1e-5), None, "unfold"),
        (None, Centre(), ""),
    ):
        group = SpikeGroup(72, scheme, norm, centre)
        linears = [make_linear(out_features=n, group=group, threshold=THRESHOLD, **settings)[0] for n in (19, 8)]
        if execution:
            set_execution(torch.nn.ModuleList(linears), execution)
        trained = [*(linear.bias for linear in linears), *([norm.weight] if norm else [])]
        trained += [centre.bias] if centre else []
        x = torch.randn(2, 5, 72)
        with torch.no_grad():
            plain = [linear(x) for linear in linears]
        found, expected = [], []
        for outputs_of, into in ((lambda x: [linear(x) for linear in linears], found), (None, expected)):  # noqa: B023
            source = x.clone().requires_grad_()
            outputs = outputs_of(source) if outputs_of else written_out(linears, source)
            if outputs_of:
                assert all(map(torch.equal, outputs, plain)), "gradients changed the numbers"
            weights = [torch.linspace(-1, 1, y.numel()).view(y.shape) for y in outputs]
            total = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
            into.extend(torch.autograd.grad(total, [source, *trained]))  # type: ignore[arg-type]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_float_weight_trains_and_packed_ones_do_not(make_linear: MakeLinear) -> None:
    linear, _ = make_linear(bits="16-8")
    linear.weight.requires_grad_()
    x = torch.randn(3, 72)
    linear(x).sum().backward()
    decoded = linear.encoder(x).decode().sum(0).expand(19, 72)
    torch.testing.assert_close(linear.weight.grad.squeeze(1), decoded)


def test_members_called_with_and_without_gradients(make_linear: MakeLinear) -> None:
    """What was computed without gradients is not handed to who wants them."""
    first, _ = make_linear(out_features=19)
    second, _ = make_linear(out_features=8, group=first.group)
    for x in (torch.randn(3, 72).requires_grad_(), torch.randn(3, 72)):  # the bias trains in any case
        with torch.no_grad():
            first(x)
        assert second(x).requires_grad
        first(x)
        with torch.no_grad():
            assert not second(x).requires_grad


def test_gradients_of_half_precision(make_linear: MakeLinear) -> None:
    linear = make_linear()[0].to(torch.bfloat16)
    x = torch.randn(3, 72, dtype=torch.bfloat16).requires_grad_()
    y = linear(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == linear.bias.grad.dtype == torch.bfloat16
    expected = linear.float_weight().sum(0) @ linear.encoder.rotation(torch.eye(72)).mT
    torch.testing.assert_close(x.grad[0].float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("settings", [{"kv_bits": 4}, {"kv_bits": 8, "kv_range": "asymmetric", "kv_group": 4}], ids=str)
def test_attention_over_counts(settings: dict[str, Any]) -> None:
    """Those of attention over what the rows stand for, with respect to query, keys and values."""
    config = SpikeConfig.parse(settings)
    assert config.kv is not None
    code = KvCode(config.kv, 8, seed=2)
    query, keys, values = (torch.randn(2, heads, n, 8) for heads, n in ((6, 3), (2, 5), (2, 5)))
    mask = torch.zeros(2, 1, 3, 5).masked_fill(torch.rand(2, 1, 3, 5) < 0.3, -1e4)
    rows = [code.rows(states, kind) for states, kind in ((keys, "k"), (values, "v"))]  # type: ignore[arg-type]
    plain = code.attend(query, *rows, mask, 0.3)

    def decoded(part: Tensor) -> Tensor:
        counts, scale, zero = ops.unpack_rows(part, 8, code.settings)
        return code.rotation.inverse((scale * (counts if zero is None else counts - zero)).flatten(-2))

    past = 2  # tokens that were there before, and whose states are gone
    leaves = [query.clone().requires_grad_(), *(s[..., past:, :].clone().requires_grad_() for s in (keys, values))]
    known = [code.with_states(part, states) for part, states in zip(rows, leaves[1:], strict=True)]
    attended = code.attend(leaves[0], *known, mask, 0.3)
    assert torch.equal(attended, plain)
    weights = torch.randn_like(plain)
    found = torch.autograd.grad((attended * weights).sum(), leaves)

    copies = [query.clone().requires_grad_(), *(decoded(part).requires_grad_() for part in rows)]
    k, v = (states.repeat_interleave(3, 1) for states in copies[1:])
    y = (copies[0] @ k.mT * 0.3 + mask).softmax(-1) @ v
    torch.testing.assert_close(y, plain, rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad((y * weights).sum(), copies)
    for one, other, start in zip(found, expected, (0, past, past), strict=True):
        torch.testing.assert_close(one, other[..., start:, :], rtol=1e-4, atol=1e-5)


def gradient(model: Any, tokens: Tensor, **arguments: Any) -> Tensor:
    """Of the loss with respect to the input embeddings."""
    table = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    seen: list[Tensor] = []

    def cut(_module: Any, _arguments: Any, embedded: Tensor) -> Tensor:  # tied weights have gradients of their own
        seen.append(embedded.detach().requires_grad_())
        return seen[-1]

    hook = table.register_forward_hook(cut)
    model(tokens, labels=tokens, **arguments).loss.backward()
    hook.remove()
    assert seen[0].grad is not None
    return seen[0].grad.flatten()


BOUNDS: list[tuple[dict[str, Any], float]] = [
    ({"bits": "16-16"}, 0.9999),
    ({"bits": "8-8"}, 0.97),
    ({"bits": "4-1.58"}, 0.5),
    ({"bits": "8-8", "kv_bits": 8}, 0.97),
]


def test_near_the_float_models_gradient(
    transformer: str, tiny_checkpoint: Callable[..., Path], converted: Callable[..., Path], tokens: Tensor
) -> None:
    expected = gradient(AutoModelForCausalLM.from_pretrained(tiny_checkpoint(transformer)), tokens)
    for settings, least in BOUNDS:
        model = AutoModelForCausalLM.from_pretrained(converted(transformer, **settings))
        for use_cache in (False, True):
            found = gradient(model, tokens, use_cache=use_cache)
            assert torch.cosine_similarity(found, expected, 0) > least, (settings, use_cache)


def test_a_whole_model_has_the_gradient_of_the_formula_in_its_linears(
    family: str, converted: Callable[..., Path], tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RWKV too, whose tiny random models have float gradients that a rounding turns anywhere."""
    model = AutoModelForCausalLM.from_pretrained(converted(family)).eval()
    found = gradient(model, tokens, use_cache=False)
    forward = SpikeLinear.forward

    def formula(self: SpikeLinear, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = forward(self, x)
        (z,) = written_out([self], x)
        return z + (y - z).detach()

    monkeypatch.setattr(SpikeLinear, "forward", formula)
    expected = gradient(model, tokens, use_cache=False)
    assert torch.cosine_similarity(found, expected, 0) > 0.99999
    torch.testing.assert_close(found.norm(), expected.norm(), rtol=1e-3, atol=0)


def test_what_stays_float_trains(converted: Callable[..., Path], tokens: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted("qwen2"))
    assert model.hf_quantizer.is_trainable
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    losses = []
    for _ in range(5):
        loss = model(tokens, labels=tokens, use_cache=False).loss
        losses.append(float(loss.detach()))
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert all(linear.bias is None or linear.bias.requires_grad for linear in spike_linears(model).values())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
