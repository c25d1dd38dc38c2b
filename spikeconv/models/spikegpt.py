"""SpikeGPT (Zhu et al. 2023): RWKV-4 whose attention and feed-forward end in spikes; tokens are its neurons' time.

    x ← x + LIF(attention(LN1 x)),   x ← x + LIF(feed-forward(LN2 x))

The paper calls all inputs of linears spikes. In the released code none is: every linear reads a LayerNorm of the real
residual stream behind a token shift, and spikes only enter the sums. So it is here; the codecs of a conversion stand in
front of those linears and make them spike. The names are those of `RwkvForCausalLM`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel

from spikeconv.models.lif import charges, heaviside, lif
from spikeconv.models.recurrent import RecurrentHead, RecurrentStack
from spikeconv.models.shift import shifted
from spikeconv.models.wkv import WkvState, wkv4

__all__ = ["SpikeGptConfig", "SpikeGptForCausalLM", "SpikeGptModel", "SpikeGptState"]


class SpikeGptConfig(PretrainedConfig):
    """Sizes of a model, and where it spikes.

    Attributes:
        spikes: what ends a branch: `lif`, or `heaviside` without a memory (the ablation of the paper's table 5), or
            `none`: RWKV-4.
        lif_in_ffn: a LIF in the place of the squared ReLU (SpikeGPT-B).
        binary_embedding: [E ≥ 0] of an embedding, as in the 46 M model (vocabulary of characters).
    """

    model_type = "spikegpt"

    def __init__(
        self,
        vocab_size: int = 50277,
        hidden_size: int = 768,
        num_hidden_layers: int = 18,
        attention_hidden_size: int | None = None,
        intermediate_size: int | None = None,
        context_length: int = 1024,
        layer_norm_epsilon: float = 1e-5,
        spikes: str = "lif",
        lif_in_ffn: bool = False,
        binary_embedding: bool = False,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        if spikes not in ("lif", "heaviside", "none"):
            raise ValueError(f"spikes is {spikes!r}; choose lif, heaviside or none")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.context_length = context_length
        self.layer_norm_epsilon = layer_norm_epsilon
        self.spikes = spikes
        self.lif_in_ffn = lif_in_ffn
        self.binary_embedding = binary_embedding
        self.use_cache = use_cache
        super().__init__(**{"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False, **kwargs})


class SpikeGptState(NamedTuple):
    """What one layer remembers of everything read: the size does not depend on how much that was.

    Attributes:
        attention, feed_forward: [batch, hidden], the last input of each.
        wkv: RWKV-4's sums (`WkvState`).
        attention_potential, feed_forward_potential: [batch, hidden] float32, H of the LIF that ends each branch.
        inner_potential: [batch, intermediate] float32, H of the LIF in the feed-forward; zeros without one.
    """

    attention: Tensor
    feed_forward: Tensor
    wkv: WkvState
    attention_potential: Tensor
    feed_forward_potential: Tensor
    inner_potential: Tensor


class Neuron(nn.Module):
    """One neuron per channel; without tensors, so that a checkpoint does not show it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @property
    def is_neuron(self) -> bool:
        """Whether its outputs are spikes, to be recorded."""
        return self.kind != "none"

    def potentials(self, y: Tensor, potential: Tensor | None) -> Tensor:
        """U [batch, tokens, channels] of the same input; without a memory y itself."""
        return charges(y, potential) if self.kind == "lif" else y.detach().float()

    def forward(self, y: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor]:
        """What y [batch, tokens, channels] becomes, and H [batch, channels]."""
        if self.kind == "lif":
            return lif(y, potential)
        none = torch.zeros_like(y[:, 0], dtype=torch.float32)
        # Without a memory U = β Y reaches a threshold where Y reaches 2; the ablation asks for the sign.
        return (heaviside(y) if self.kind == "heaviside" else y), none

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return self.kind


class SpikeGptSelfAttention(nn.Module):
    """RWKV-4's time mixing."""

    def __init__(self, config: SpikeGptConfig, index: int) -> None:
        super().__init__()
        self.index, self.layers = index, config.num_hidden_layers
        hidden, attention = config.hidden_size, config.attention_hidden_size
        self.time_decay = nn.Parameter(torch.empty(attention))
        self.time_first = nn.Parameter(torch.empty(attention))
        self.time_mix_key = nn.Parameter(torch.empty(1, 1, hidden))
        self.time_mix_value = nn.Parameter(torch.empty(1, 1, hidden))
        self.time_mix_receptance = nn.Parameter(torch.empty(1, 1, hidden))
        self.key = nn.Linear(hidden, attention, bias=False)
        self.value = nn.Linear(hidden, attention, bias=False)
        self.receptance = nn.Linear(hidden, attention, bias=False)
        self.output = nn.Linear(attention, hidden, bias=False)

    def forward(self, x: Tensor, last: Tensor | None, state: WkvState | None) -> tuple[Tensor, WkvState]:
        """The output [batch, tokens, hidden] and the new sums."""
        before = shifted(x, last)
        key = self.key(before.lerp(x, self.time_mix_key))
        value = self.value(before.lerp(x, self.time_mix_value))
        receptance = torch.sigmoid(self.receptance(before.lerp(x, self.time_mix_receptance)))
        y, after = wkv4(self.time_decay, self.time_first, key, value, state)
        return self.output(receptance * y), after

    @torch.no_grad()
    def reset(self) -> None:
        """Starts as the authors do: only the token shifts and decays tell the layers apart."""
        depth, rest = self.index / max(1, self.layers - 1), 1 - self.index / self.layers
        place = torch.linspace(0, 1, len(self.time_decay))
        self.time_decay.copy_(-5 + 8 * place ** (0.7 + 1.3 * depth))
        zigzag = (torch.arange(len(self.time_first)) + 1) % 3 - 1
        self.time_first.copy_(torch.tensor(0.3).log() + 0.5 * zigzag)
        mix = _mixes(self.time_mix_key, rest)
        self.time_mix_key.copy_(mix)
        self.time_mix_value.copy_(mix + 0.3 * depth)
        self.time_mix_receptance.copy_(_mixes(self.time_mix_key, rest / 2))
        for linear in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear.weight)
        _orthogonal(self.value)


class SpikeGptFeedForward(nn.Module):
    """RWKV-4's channel mixing; in SpikeGPT-B a LIF takes the place of the squared ReLU."""

    def __init__(self, config: SpikeGptConfig, index: int) -> None:
        super().__init__()
        self.index, self.layers = index, config.num_hidden_layers
        self.inner = Neuron("lif") if config.lif_in_ffn else None
        self.time_mix_key = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.time_mix_receptance = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.receptance = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, last: Tensor | None, potential: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output [batch, tokens, hidden] and H [batch, intermediate] of the inner neurons."""
        before = shifted(x, last)
        key = self.key(before.lerp(x, self.time_mix_key))
        if self.inner is None:
            key, potential = torch.relu(key).square(), torch.zeros_like(key[:, 0], dtype=torch.float32)
        else:
            key, potential = self.inner(key, potential)
        assert potential is not None
        receptance = torch.sigmoid(self.receptance(before.lerp(x, self.time_mix_receptance)))
        return receptance * self.value(key), potential

    @torch.no_grad()
    def reset(self) -> None:
        """Starts as the authors do."""
        mix = _mixes(self.time_mix_key, 1 - self.index / self.layers)
        self.time_mix_key.copy_(mix)
        self.time_mix_receptance.copy_(mix)
        for linear in (self.value, self.receptance):
            nn.init.zeros_(linear.weight)
        _orthogonal(self.key)


def _mixes(like: Tensor, power: float) -> Tensor:
    """How much of the token itself every channel takes: from nothing to all."""
    return (torch.arange(like.shape[-1]) / like.shape[-1]) ** power


def _orthogonal(linear: nn.Linear) -> None:
    gain = max(1.0, linear.out_features / linear.in_features) ** 0.5
    nn.init.orthogonal_(linear.weight, gain=gain)


class SpikeGptBlock(nn.Module):
    """One layer."""

    def __init__(self, config: SpikeGptConfig, index: int) -> None:
        super().__init__()
        self.index = index
        if index == 0:
            self.pre_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attention = SpikeGptSelfAttention(config, index)
        self.feed_forward = SpikeGptFeedForward(config, index)
        self.lif1, self.lif2 = Neuron(config.spikes), Neuron(config.spikes)

    def forward(self, x: Tensor, state: SpikeGptState | None) -> tuple[Tensor, SpikeGptState]:
        """The output [batch, tokens, hidden] and the new state."""
        x = self.pre_ln(x) if self.index == 0 else x
        seen = self.ln1(x)
        y, wkv = self.attention(seen, state and state.attention, state and state.wkv)
        y, attention = self.lif1(y, state and state.attention_potential)
        x = x + y
        read = self.ln2(x)
        y, inner = self.feed_forward(read, state and state.feed_forward, state and state.inner_potential)
        y, feed_forward = self.lif2(y, state and state.feed_forward_potential)
        return x + y, SpikeGptState(seen[:, -1], read[:, -1], wkv, attention, feed_forward, inner)


class SpikeGptPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = SpikeGptConfig
    base_model_prefix = "rwkv"
    _no_split_modules = ["SpikeGptBlock"]  # noqa: RUF012 (as transformers declares it)
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SpikeGptSelfAttention | SpikeGptFeedForward):
            module.reset()
        elif isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -1e-4, 1e-4)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class SpikeGptModel(RecurrentStack, SpikeGptPreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: SpikeGptConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(SpikeGptBlock(config, index) for index in range(config.num_hidden_layers))
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def embedded(self, input_ids: Tensor) -> Tensor:
        """What the first block reads, [batch, tokens, hidden]: zeros and ones where the embedding is binary."""
        x = super().embedded(input_ids)
        return heaviside(x) if self.config.binary_embedding else x


class SpikeGptForCausalLM(RecurrentHead, SpikeGptPreTrainedModel, GenerationMixin):
    """The model with its output head."""

    def __init__(self, config: SpikeGptConfig) -> None:
        super().__init__(config)
        self.rwkv = SpikeGptModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
