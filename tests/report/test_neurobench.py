"""NeuroBench's keys, against its published definitions by hand and, where it is installed, against the package itself.

The locked environment has none of it: it brings numba, librosa and tonic, and beside a CPU build of torch its
torchaudio does not load, nor then transformers. In an environment of its own: `pip install neurobench==2.3.0`,
`pip uninstall torchaudio`, `pytest tests/report/test_neurobench.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import SpikeLinear, spike_linears
from spikeconv.record.text import record_text
from spikeconv.report.neurobench import neurobench_keys

TEXT = "Four score and seven years ago our fathers brought forth"

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"bits": "2-1.58"}),
    ("llama", {"bits": "4-1", "temporal_code": "binary"}),
    ("qwen2", {"bits": "4-1.58", "temporal_code": "ramp"}),
    ("llama", {"bits": "3-4"}),
    ("rwkv", {"codec": "multihead"}),
)


def frames_of(linear: SpikeLinear, x: Tensor) -> Tensor:
    """What a linear is sent, [tokens, steps, in] float32: planes of digits one after the other."""
    spikes = linear.encoder(x).spikes
    assert spikes is not None and linear.encoder.codec is not None
    if linear.scheme.inputs.spikes == "integer":
        train = spikes.counts[None]
    else:
        train = linear.encoder.codec.unfold(spikes.counts, linear.encoder.code)
        train = train.transpose(0, 1).flatten(0, 1) if spikes.stacked else train
    return train.flatten(1, -2).transpose(0, 1).float()


def by_hand(frames: Tensor, weight: Tensor) -> dict[str, Any]:
    """single_layer_MACs, ActivationSparsity, ConnectionSparsity and MembraneUpdates as they are published."""
    tokens, steps, _ = frames.shape
    is_spiking = bool(((frames == 0) | (frames == 1) | (frames == -1)).all())
    effective = ((frames != 0).double() @ (weight != 0).double().T).sum().item() / tokens
    potentials = (frames.double() @ weight.double().T).cumsum(1)
    changes = (potentials.diff(dim=1) != 0).sum() + tokens * len(weight)  # of the first step all count
    return {
        "ConnectionSparsity": round((weight == 0).double().mean().item(), 4),
        "ActivationSparsity": 1 - frames.count_nonzero().item() / frames.numel(),
        "SynapticOperations": {
            "Effective_MACs": 0 if is_spiking else effective,
            "Effective_ACs": effective if is_spiking else 0,
            "Dense": steps * weight.numel(),
        },
        "MembraneUpdates": changes.item() / tokens,
    }


def by_the_package(frames: Tensor, weight: Tensor) -> dict[str, Any]:
    """The same, by NeuroBench: spikes, a linear, and behind it integrators that never fire."""
    import snntorch
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
    from neurobench.models import SNNTorchModel, TorchModel

    linear = nn.Linear(weight.shape[1], len(weight), bias=False).requires_grad_(False)
    linear.weight.copy_(weight)
    neuron = snntorch.Leaky(beta=1.0, threshold=1e9, init_hidden=True, reset_mechanism="none")

    class Integrators(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.neuron = linear, neuron

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.neuron(self.linear(x)), None

    plain = TorchModel(nn.Sequential(nn.Identity(), linear))
    plain.add_activation_module(nn.Identity)
    found: dict[str, Any] = {"ConnectionSparsity": ConnectionSparsity()(plain)}
    stepped = SNNTorchModel(Integrators())
    for model, metrics in ((plain, (ActivationSparsity, SynapticOperations)), (stepped, (MembraneUpdates,))):
        model.register_hooks()
        outputs = model(frames)
        found |= {metric.__name__: metric()(model, outputs, (frames, outputs)) for metric in metrics}
        model.cleanup_hooks()
    return found


def test_the_keys_are_neurobenchs(converted: Callable[..., Path]) -> None:
    for family, settings in CASES:
        loaded = load_checkpoint(converted(family, **settings), device="cpu")
        linears = spike_linears(loaded.model)
        inputs: dict[str, Tensor] = {}
        for name, linear in linears.items():
            linear.register_forward_pre_hook(
                lambda _, args, name=name, seen=inputs: seen.__setitem__(name, args[0].clone())
            )
        record = record_text(loaded.model, loaded.tokenizer, TEXT, connections=True)
        whole = neurobench_keys(record)
        tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
        assert whole["Footprint"] == sum(each.numel() * each.element_size() for each in tensors)
        operations = {"Effective_MACs": 0.0, "Effective_ACs": 0.0, "Dense": 0.0}
        for number, layer in enumerate(record.layers):
            linear = linears[layer.name]
            frames = frames_of(linear, inputs[layer.name])
            weight = linear.float_weight() if linear.weight_scale is None else linear.integers().float()
            alone = replace(record, layers=(replace(layer, encodes=True),), float_linears=(), float_macs={})
            keys, expected = neurobench_keys(alone), by_hand(frames, weight)
            known = [expected]
            if number < 2 and find_spec("neurobench") is not None:
                known.append(by_the_package(frames, weight))
            for found in known:
                for name in ("ConnectionSparsity", "SynapticOperations"):
                    assert keys[name] == found[name], (settings, layer.name, name)
                assert abs(keys["ActivationSparsity"] - found["ActivationSparsity"]) < 1e-12, (settings, layer.name)
                assert found["MembraneUpdates"] == expected["MembraneUpdates"]
            assert keys["ActivationSparsityByLayer"] == {layer.name: keys["ActivationSparsity"]}
            bound = 0 if layer.scheme.inputs.spikes == "integer" else frames.shape[1] * len(weight)
            assert keys["MembraneUpdates"] == bound and (not bound or expected["MembraneUpdates"] <= bound)
            operations = {name: value + keys["SynapticOperations"][name] for name, value in operations.items()}
        floats = sum(record.float_macs.get(name, 0) for name in ("head", "low rank")) / record.tokens
        assert floats > 0 and not record.float_linears
        operations["Effective_MACs"] += floats
        operations["Dense"] += floats
        for name, value in operations.items():
            assert abs(whole["SynapticOperations"][name] - value) <= 1e-9 * value, (settings, name)
        blind = replace(record, layers=tuple(replace(layer, effective=None) for layer in record.layers))
        assert neurobench_keys(blind)["SynapticOperations"]["Dense"] == whole["SynapticOperations"]["Dense"]
        assert None in neurobench_keys(blind)["SynapticOperations"].values()
