"""The published systems that work here, and what brings each: for `spikeconv models` and docs/systems.md."""

from typing import NamedTuple

__all__ = ["SYSTEMS", "System"]


class System(NamedTuple):
    """One published system.

    Attributes:
        name: what its paper calls it.
        what: how an input becomes spikes.
        command: an example of `spikeconv`'s that converts with it.
        status: what works of it.
    """

    name: str
    what: str
    command: str
    status: str


SYSTEMS = (
    System("SDLLM", "signed counts, one ternary spike a slot", "convert --bits 4-1.58", "complete"),
    System("QuaRot", "its counts sent whole, or as spikes", "convert --scheme quarot-4-4", "rtn or gptq"),
    System(
        "SpinQuant", "its setting with Hadamard rotations", "convert --scheme spinquant-4-4", "rotations not learned"
    ),
    System("SmoothQuant", "scales shared between inputs and weights", "convert --scheme smoothquant-4-4", "α of 1/2"),
    System("SpikeLLM", "counts of two widths, by salient channels", "convert --codec gif", "rtn or gptq"),
    System(
        "SpikingBrain", "threshold mean |x| / 3, nothing clipped", "convert --scheme spikingbrain-8-1.58", "its rule"
    ),
    System("SpikeRWKV", "a layer of spikes for each decimal digit", "convert --codec multihead", "complete"),
    System("SNN-RWKV-T", "a constant input to integrate-and-fire", "convert --codec repetition", "complete"),
    System("SpikeGPT", "neurons over token time, in the model", "convert FILE.pth --arch spikegpt", "pretrained files"),
    System(
        "SpikeLM", "elastic neurons, T streams of the network", "convert --scheme spikelm-t4", "`finetune` trains it"
    ),
    System(
        "LIF-BERT", "its baseline, leaky integrate-and-fire", "convert --scheme lif-bert-t4", "`finetune` trains it"
    ),
)
