"""SpikeLinear is METHOD's formula, bit for bit, in every execution and dtype."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spikeconv import ops
from spikeconv.errors import SpikeconvError
from spikeconv.nn import EXECUTIONS, SpikeLinear, buffer_shapes, set_execution
from spikeconv.rotation import Rotation

SCHEMES: list[dict[str, Any]] = [
    {"bits": "4-1.58"},
    {"bits": "4-1.58", "steps": 16, "rotation": "none"},
    {"bits": "4-1.58", "count_range": "full"},
    {"bits": "6-1.58", "seed": 3},
    {"bits": "4-1"},
    {"bits": "6-1"},
    {"bits": "4-4"},
    {"bits": "8-8"},
    {"bits": "8-1"},
    {"bits": "6-1.58", "code": {"kind": "binary"}},
    {"bits": "6-1.58", "code": {"kind": "signed-digit"}},
    {"bits": "6-1.58", "code": {"kind": "ramp", "slots": 8}},
]
EACH_SCHEME = pytest.mark.parametrize("settings", SCHEMES, ids=lambda s: "-".join(map(str, s.values())))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def written_out(linear: SpikeLinear, x: Tensor) -> Tensor:
    """METHOD, section 1, in plain torch and int64: k = clamp(round(u/s) + z), y = s·s_w·(W(k - z)) + b."""
    scheme = linear.scheme
    u = x.float() if scheme.rotation.is_none else Rotation(linear.in_features, scheme.rotation.seed)(x)
    low, high = torch.zeros_like(u[..., :1]), u.abs().amax(-1, keepdim=True)
    if not scheme.inputs.symmetric:
        low, high = u.amin(-1, keepdim=True).clamp_max(0), u.amax(-1, keepdim=True).clamp_min(0)
    span = scheme.inputs.clip_ratio * high - scheme.inputs.clip_ratio * low
    s = span / torch.full_like(span, scheme.inputs.count_max)  # a GPU would multiply by a number's reciprocal
    z = torch.zeros_like(s) if scheme.inputs.symmetric else torch.round(-scheme.inputs.clip_ratio * low / s)
    k = torch.clamp(torch.round(u / s) + z, scheme.inputs.count_min, scheme.inputs.count_max)
    weight = ops.unpack(linear.weight, linear.in_features)
    acc = ((k - z).long()[..., None, :] * weight.long()).sum(-1)
    y = acc.float() * s * linear.weight_scale
    return (y if linear.bias is None else y + linear.bias.float()).to(x.dtype)


@EACH_SCHEME
@DTYPES
@pytest.mark.parametrize("bias", [True, False])
def test_executions_agree_with_the_formula(
    settings: dict[str, Any], dtype: torch.dtype, bias: bool, make_linear: Callable[..., Any], device: torch.device
) -> None:
    linear = make_linear(bias=bias, **settings)[0].to(device, dtype)
    x = torch.randn(2, 7, 72, device=device, dtype=dtype)
    expected = written_out(linear, x)
    for execution in EXECUTIONS:
        linear.execution = execution
        for arranged in (False, True):
            if arranged:
                set_execution(linear, execution)
            y = linear(x)
            assert y.dtype == dtype and torch.equal(y, expected), execution
        linear.arrange("packed")


@pytest.mark.parametrize(("bits", "bound"), [("4-4", 0.25), ("6-6", 0.07), ("8-8", 0.02), ("8-1", 0.02)])
def test_output_is_near_the_float_linear(bits: str, bound: float, make_linear: Callable[..., Any]) -> None:
    """Rounding noise of inputs and weights, Δ/√12 each with Δ = 7σ/2^b, adds up to .18, .045, .011."""
    linear, plain = make_linear(576, 64, bits=bits, clip_ratio=1.0)
    x = torch.randn(64, 576) * torch.linspace(0.1, 4, 576)
    assert (linear(x) - plain(x)).norm() < bound * plain(x).norm()


@pytest.mark.parametrize("rotation", ["gamma-sqp", "none"])
@pytest.mark.parametrize("features", [72, 90, 344])
def test_without_rounding_it_is_the_float_linear(
    rotation: str, features: int, make_linear: Callable[..., Any], device: torch.device
) -> None:
    linear, plain = make_linear(features, 33, bits="16-16", rotation=rotation)
    x = torch.randn(3, 5, features, device=device)
    torch.testing.assert_close(linear.to(device)(x), plain.to(device)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bits", "bound"), [("16-8", 0.02), ("8-16", 0.02), ("16-1.58", 0.25), ("4-16", 0.2)])
def test_one_side_float(bits: str, bound: float, make_linear: Callable[..., Any]) -> None:
    linear, plain = make_linear(576, 64, bits=bits)
    x = torch.randn(64, 576)
    assert 0 < (linear(x) - plain(x)).norm() < bound * plain(x).norm()


@pytest.mark.parametrize("lead", [(), (0,), (1,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "16-16"])
def test_leading_axes(lead: tuple[int, ...], bits: str, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits=bits)
    x = torch.randn(*lead, 72)
    y = linear(x)
    assert y.shape == (*lead, 19)
    rows = torch.stack([linear(row) for row in x.view(-1, 72)]) if x.numel() else y.view(-1, 19)
    torch.testing.assert_close(y.view(-1, 19), rows, rtol=0, atol=0 if bits != "16-16" else 1e-5)


def test_broken_token_gives_no_number_and_spares_the_others(make_linear: Callable[..., Any]) -> None:
    for bits in ("4-1.58", "4-1"):
        linear, _ = make_linear(bits=bits)
        x = torch.randn(3, 72)
        x[1, 5] = float("nan")
        y = linear(x)
        assert y[1].isnan().all() and y[::2].isfinite().all()


@DTYPES
def test_casting_keeps_the_integers_and_the_scales(dtype: torch.dtype, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits="4-1")
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    after = linear.to(dtype).state_dict()
    assert after["bias"].dtype == dtype
    assert all(torch.equal(after[name], before[name]) for name in ("weight", "weight_scale", "weight_sum"))


def test_state_is_what_buffer_shapes_says(make_linear: Callable[..., Any]) -> None:
    for settings in ({"bits": "4-1.58"}, {"bits": "6-1"}, {"bits": "16-16"}):
        linear, _ = make_linear(bias=False, **settings)
        state = {name: (tuple(t.shape), t.dtype) for name, t in linear.state_dict().items()}
        shapes = buffer_shapes(72, 19, linear.scheme)
        assert state == {name: (shape, dtype or torch.float32) for name, (shape, dtype) in shapes.items()}


@pytest.mark.parametrize("bits", ["4-1.58", "6-1", "2-4"])
@pytest.mark.parametrize("layout", ["tiles", "columns"])
def test_state_is_packed_whatever_the_layout(bits: str, layout: Any, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits=bits)
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    linear.arrange(layout)
    assert linear.layout == layout
    state = linear.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in before)
    other, _ = make_linear(bits=bits)
    other.arrange(layout)
    other.load_state_dict(before)
    assert other.layout == layout and torch.equal(other.weight, linear.weight)


def test_weight_sum_is_the_row_sums(make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits="4-1")
    assert torch.equal(linear.weight_sum, ops.unpack(linear.weight, 72).sum(1, dtype=torch.int32))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda linear: pickle.loads(pickle.dumps(linear))])
def test_copies_compute_the_same(clone: Callable[..., SpikeLinear], make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear()
    x = torch.randn(4, 72)
    expected = linear(x)
    other = clone(linear)
    linear.weight.zero_()
    assert torch.equal(other(x), expected) and other.group is not linear.group


def test_autocast_does_not_change_the_output(make_linear: Callable[..., Any], device: torch.device) -> None:
    linear = make_linear()[0].to(device)
    x = torch.randn(4, 72, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        inside = linear(x)
    assert torch.equal(inside, linear(x))


@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "16-16"])
def test_compiles_to_one_graph(bits: str, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits=bits)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    for tokens in (3, 5):
        x = torch.randn(tokens, 72)
        torch.testing.assert_close(compiled(x), linear(x), rtol=0, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
@pytest.mark.parametrize("layout", ["packed", "tiles"])
def test_exports(bits: str, layout: Any, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(bits=bits)
    linear.arrange(layout)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(linear, (torch.randn(3, 72),), dynamic_shapes=({0: tokens},))
    assert any("spikeconv.linears" in str(node.target) for node in program.graph.nodes)
    x = torch.randn(9, 72)
    assert torch.equal(program.module()(x), linear(x))


def test_execution_from_the_environment(make_linear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKECONV_EXEC", "events")
    assert make_linear()[0].execution == "events"
    monkeypatch.setenv("SPIKECONV_EXEC", "fast")
    with pytest.raises(SpikeconvError, match=r"'fast'.*auto, dense, events, unfold"):
        make_linear()
    monkeypatch.delenv("SPIKECONV_EXEC")
    with pytest.raises(SpikeconvError, match="unfolded"):
        set_execution(make_linear()[0], "unfolded")


def test_repr_shows_the_scheme(make_linear: Callable[..., Any]) -> None:
    text = repr(make_linear(bits="4-1.58")[0])
    assert all(part in text for part in ("in_features=72", "bits=4-1.58", "virtual_steps=8", "36·2"))
    assert "blocks" in repr(make_linear(90)[0])


def test_rotation_is_what_makes_outliers_bearable(make_linear: Callable[..., Any]) -> None:
    """The reason for γ-SQP: one large input ruins the scale of all others unless it is spread."""
    x = torch.randn(64, 576)
    x[:, 3] *= 100
    errors = {}
    for rotation in ("gamma-sqp", "none"):
        linear, plain = make_linear(576, 64, bits="16-4", rotation=rotation)
        small = plain.weight.clone().index_fill_(1, torch.tensor([3]), 0)  # the outlier's own column counts little
        linear, plain.weight = _with_weight(linear, small), torch.nn.Parameter(small, requires_grad=False)
        errors[rotation] = ((linear(x) - F.linear(x, small, plain.bias)).norm() / plain(x).norm()).item()
    assert errors["none"] > 0.9  # every other count is zero
    assert errors["gamma-sqp"] < errors["none"]


def _with_weight(linear: SpikeLinear, weight: Tensor) -> SpikeLinear:
    rotation = linear.encoder.rotation
    linear.weight = (weight if rotation is None else rotation(weight))[:, None].contiguous()
    return linear


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bits": "4-1"}, {"codec": "multihead", "bits": "4-1.58"}], ids=str)
def test_exports_as_its_operators(settings: dict[str, Any], strict: bool, make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(**settings)
    set_execution(linear, "auto")  # arranged, as in a loaded model
    x = torch.randn(3, 72)
    program = torch.export.export(torch.nn.Sequential(linear), (x,), strict=strict)
    assert torch.equal(program.module()(x), linear(x))
    products = "accumulate" if settings.get("codec") else "linears"
    assert any(products in str(node.target) for node in program.graph.nodes)
