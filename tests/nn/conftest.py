"""A converted linear, and the float one it came from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from spikeconv.config import SpikeConfig
from spikeconv.convert.linear import convert_linear
from spikeconv.nn import SpikeGroup, SpikeLinear

MakeLinear = Callable[..., tuple[SpikeLinear, nn.Linear]]


@pytest.fixture
def make_linear() -> MakeLinear:
    """`make_linear(in, out, bias=…, group=…, **settings)` → (converted, float), with random weights."""

    def make(
        in_features: int = 72, out_features: int = 19, *, bias: bool = True, group: Any = None, **settings: Any
    ) -> tuple[SpikeLinear, nn.Linear]:
        scheme = SpikeConfig.parse(settings)
        plain = nn.Linear(in_features, out_features, bias).requires_grad_(False)
        linear = SpikeLinear(in_features, out_features, scheme, group or SpikeGroup(in_features, scheme), bias=bias)
        tensors = convert_linear(plain.weight, scheme).tensors
        linear.load_state_dict({**tensors, **({"bias": plain.bias} if bias else {})})
        return linear, plain

    torch.manual_seed(11)
    return make
