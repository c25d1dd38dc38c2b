"""Under a compiler a group encodes its input once as well, and gives what it gives without."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from transformers import AutoModelForCausalLM

from spikeconv.nn import SpikeGroup, spike_linears
from spikeconv.rotation import Rotation

MakeLinear = Callable[..., Any]


class Counting:
    """A back end behind AOT that notes every forward graph; backward graphs are compiled as they are."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.backend = aot_autograd(fw_compiler=self._forward, bw_compiler=lambda graph, _: make_boxed_func(graph))

    def _forward(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs.append(graph)
        return make_boxed_func(graph.forward)

    def calls(self, op: str) -> int:
        return sum(f"spikeconv.{op}." in str(node.target) for graph in self.graphs for node in graph.graph.nodes)


@pytest.fixture
def counting() -> Iterator[Counting]:
    torch.compiler.reset()
    yield Counting()
    torch.compiler.reset()


def groups_of(model: torch.nn.Module) -> set[SpikeGroup]:
    return {linear.group for linear in spike_linears(model).values()}


@pytest.mark.parametrize("family", ["llama", "rwkv"])
def test_one_encode_a_group_in_a_whole_model(
    family: str, converted: Callable[..., Path], tokens: Tensor, counting: Counting
) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted(family)).eval()
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        logits = torch.compile(model, backend=counting.backend)(tokens, use_cache=False).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    groups = groups_of(model)
    assert counting.calls("encode") == len(groups)
    assert counting.calls("linears") == len(groups)
    assert all(group._traced is None for group in groups)


class Both(torch.nn.Module):
    """Three linears with one input, which is made before them, as a norm makes it."""

    def __init__(self, linears: list[torch.nn.Module]) -> None:
        super().__init__()
        self.linears = torch.nn.ModuleList(linears)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x * 2
        return [linear(x) for linear in self.linears]


@pytest.mark.parametrize("settings", [{}, {"bits": "4-1"}, {"bits": "8-16"}], ids=str)
def test_gradients_of_a_compiled_group(settings: dict[str, Any], make_linear: MakeLinear, counting: Counting) -> None:
    group = None
    linears = []
    for out_features in (19, 32, 8):
        linear, _ = make_linear(out_features=out_features, group=group, **settings)
        group = linear.group
        linears.append(linear)
    model = Both(linears)
    compiled = torch.compile(model, backend=counting.backend, fullgraph=True)
    results = []
    for run in (model, compiled):
        x = torch.linspace(-1, 2, 3 * 72).view(3, 72).requires_grad_()
        outputs = run(x)
        sum(y.sin().sum() for y in outputs).backward()
        results.append([*(y.detach() for y in outputs), x.grad, *(linear.bias.grad for linear in linears)])
        model.zero_grad()
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=0, atol=1e-6)
    assert counting.calls("encode") == (0 if settings.get("bits") == "8-16" else 1)


def test_members_alone_and_in_another_order(make_linear: MakeLinear, counting: Counting) -> None:
    first, _ = make_linear(out_features=19)
    second, _ = make_linear(out_features=8, group=first.group)
    x = torch.randn(3, 72)
    with torch.no_grad():
        for linears in ([second], [second, first], [first, first], [first]):
            model = Both(linears)
            compiled = torch.compile(model, backend=counting.backend, fullgraph=True)
            for _ in range(3):
                assert all(map(torch.equal, compiled(x), model(x)))
                x = torch.randn(3, 72)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # which are undone
def test_an_exported_group_encodes_once(make_linear: MakeLinear) -> None:
    first, _ = make_linear(out_features=19)
    model = Both([first, make_linear(out_features=8, group=first.group)[0]])
    x = torch.randn(3, 72)
    for strict in (False, True):
        program = torch.export.export(model, (x,), strict=strict)
        assert sum("spikeconv.encode." in str(node.target) for node in program.graph.nodes) == 1
        assert all(map(torch.equal, program.module()(x), model(x))) and first.group._traced is None


def test_a_rotation_first_seen_by_a_compiler_is_the_same_afterwards() -> None:
    """Its constants are kept for later: they must not be what a compiler traces with."""

    class Rotate(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rotation = Rotation(72, 12345)
            return rotation.inverse(rotation(x))

    x = torch.randn(2, 72)
    program = torch.export.export(Rotate(), (x,), strict=False)
    assert torch.equal(program.module()(x), Rotate()(x))
    assert type(Rotation(72, 12345).on(x.device)[0]) is Tensor
