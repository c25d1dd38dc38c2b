"""Every chunked attention against its definition, a loop over tokens in float64; states that travel; gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.models.wkv import wkv4, wkv6, wkv7

TOKENS = [1, 2, 15, 16, 17, 50, 257]
Inputs = dict[str, Tensor]


def loop4(time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    w, outputs = time_decay.exp(), []
    top = torch.full_like(key[:, 0], -torch.inf)
    numerator = denominator = torch.zeros_like(key[:, 0])
    for k, v in zip(key.unbind(1), value.unbind(1), strict=True):
        here = torch.maximum(top, time_first + k)
        old, new = (top - here).exp(), (time_first + k - here).exp()
        outputs.append((numerator * old + new * v) / (denominator * old + new))
        after = torch.maximum(top - w, k)
        old, new = (top - w - after).exp(), (k - after).exp()
        numerator, denominator, top = numerator * old + new * v, denominator * old + new, after
    return torch.stack(outputs, 1)


def loop6(receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, time_first: Tensor) -> Tensor:
    state, outputs = torch.zeros_like(key[:, 0, :, :, None] * value[:, 0, :, None]), []
    for r, k, v, d in zip(*(x.unbind(1) for x in (receptance, key, value, log_decay)), strict=True):
        pair = k[..., None] * v[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", r, state + time_first[..., None] * pair))
        state = d.exp()[..., None] * state + pair
    return torch.stack(outputs, 1)


def loop7(receptance: Tensor, log_decay: Tensor, key: Tensor, value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    state, outputs = torch.zeros_like(key[:, 0, :, :, None] * value[:, 0, :, None]), []
    for r, d, k, v, x, y in zip(*(t.unbind(1) for t in (receptance, log_decay, key, value, a, b)), strict=True):
        read = torch.einsum("bhk,bhkv->bhv", x, state)
        state = d.exp()[..., None] * state + y[..., None] * read[..., None, :] + k[..., None] * v[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", r, state))
    return torch.stack(outputs, 1)


def inputs4(tokens: int) -> Inputs:
    shape = (2, tokens, 5)
    return {
        "time_decay": torch.randn(5) * 3,  # from next to nothing forgotten to everything at once
        "time_first": torch.randn(5),
        "key": torch.randn(shape) * 10,
        "value": torch.randn(shape),
    }


def inputs6(tokens: int) -> Inputs:
    shape = (2, tokens, 3, 8)
    return {
        "receptance": torch.randn(shape),
        "key": torch.randn(shape),
        "value": torch.randn(2, tokens, 3, 4),
        "log_decay": -torch.exp(torch.randn(shape) * 3),  # e^-1000 and weaker
        "time_first": torch.randn(3, 8),
    }


def inputs7(tokens: int) -> Inputs:
    shape = (2, tokens, 3, 8)
    direction = torch.nn.functional.normalize(torch.randn(shape), dim=-1)
    return {
        "receptance": torch.randn(shape),
        "log_decay": -(torch.rand(shape) * 0.6065),
        "key": torch.randn(shape),
        "value": torch.randn(2, tokens, 3, 4),
        "a": -direction,
        "b": direction * torch.rand(shape),
    }


VERSIONS = pytest.mark.parametrize(
    ("chunked", "loop", "make"), [(wkv4, loop4, inputs4), (wkv6, loop6, inputs6), (wkv7, loop7, inputs7)]
)


def part(inputs: Inputs, tokens: slice) -> Inputs:
    return {name: x[:, tokens] if x.dim() > 2 else x for name, x in inputs.items()}


@VERSIONS
@pytest.mark.parametrize("tokens", TOKENS)
def test_equals_the_loop(
    chunked: Callable[..., Any], loop: Callable[..., Tensor], make: Callable[[int], Inputs], tokens: int
) -> None:
    inputs = make(tokens)
    expected = loop(**{name: x.double() for name, x in inputs.items()})
    y, _ = chunked(**inputs)
    assert y.dtype == torch.float32 and y.shape == expected.shape
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@VERSIONS
@pytest.mark.parametrize("cut", [1, 16, 37])
def test_a_state_takes_up_where_it_was_left(
    chunked: Callable[..., Any], loop: Callable[..., Tensor], make: Callable[[int], Inputs], cut: int
) -> None:
    inputs = make(50)
    whole, _ = chunked(**inputs)
    first, state = chunked(**part(inputs, slice(cut)))
    outputs = [first]
    for start in range(cut, 50, 10):
        y, state = chunked(**part(inputs, slice(start, min(50, start + 10))), state=state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=2e-5 * whole.abs().max().item())


@VERSIONS
def test_gradients_are_those_of_the_loop(
    chunked: Callable[..., Any], loop: Callable[..., Tensor], make: Callable[[int], Inputs]
) -> None:
    inputs = {name: x.requires_grad_() for name, x in make(40).items()}
    doubles = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    y, _ = chunked(**inputs)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (loop(**doubles) * weights).sum().backward()
    for name, x in inputs.items():
        expected = doubles[name].grad
        assert x.grad is not None and expected is not None
        bound = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(x.grad.double(), expected, rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}")


@VERSIONS
def test_half_precision_is_computed_in_float32(
    chunked: Callable[..., Any], loop: Callable[..., Tensor], make: Callable[[int], Inputs]
) -> None:
    inputs = {name: x.bfloat16() for name, x in make(30).items()}
    exact, _ = chunked(**{name: x.float() for name, x in inputs.items()})
    torch.testing.assert_close(chunked(**inputs)[0].float(), exact, rtol=1e-2, atol=0)
