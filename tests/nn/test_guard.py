"""A converted linear whose weight the model reads without calling it is found by the first forward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeconv.errors import SpikeconvError
from spikeconv.nn import guard_first_forward

MakeLinear = Callable[..., Any]


class TwoLinears(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, calls_second: bool) -> None:
        super().__init__()
        self.first, self.second, self.calls_second = first, second, calls_second

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.calls_second:
            return self.second(y)  # type: ignore[no-any-return]
        return y @ self.second.float_weight().T  # type: ignore[no-any-return, operator]


def make(make_linear: MakeLinear, calls_second: bool) -> TwoLinears:
    model = TwoLinears(make_linear(12, 20)[0], make_linear(20, 6, bias=False)[0], calls_second)
    guard_first_forward(model)
    return model


def test_raises_and_names_the_linear(make_linear: MakeLinear) -> None:
    with pytest.raises(SpikeconvError, match=r"never called 1 of its converted linears \(second"):
        make(make_linear, False)(torch.randn(3, 12))


def test_looks_once_and_leaves_no_hooks(make_linear: MakeLinear) -> None:
    model = make(make_linear, True)
    model(torch.randn(3, 12))
    assert not any(module._forward_hooks for module in model.modules())
    model.calls_second = False
    model(torch.randn(3, 12))
