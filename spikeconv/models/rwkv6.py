"""RWKV-6 (Finch; Peng et al. 2024), which transformers lacks; the names are those of `RWKV/rwkv-6-world-*`."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel

from spikeconv.models.recurrent import LayerState, RecurrentHead, RecurrentStack
from spikeconv.models.shift import shifted
from spikeconv.models.wkv import wkv6

__all__ = ["Rwkv6Config", "Rwkv6ForCausalLM", "Rwkv6Model"]

MIXES = "xwkvrg"
"""Token shifts of the attention: one that the other five are computed from, decay, key, value, receptance, gate."""

LARGE = 4096
"""From this hidden size on the published models have low-rank matrices of twice the rank."""


class Rwkv6Config(PretrainedConfig):
    """Sizes of a model; the names are those of the published checkpoints.

    `time_mix_extra_dim` and `time_decay_extra_dim` are the ranks of the data-dependent token shift and decay.
    """

    model_type = "rwkv6"

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 2048,
        num_hidden_layers: int = 24,
        attention_hidden_size: int | None = None,
        head_size: int = 64,
        head_size_divisor: int = 8,
        intermediate_size: int | None = None,
        time_mix_extra_dim: int | None = None,
        time_decay_extra_dim: int | None = None,
        layer_norm_epsilon: float = 1e-5,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.head_size = head_size
        self.head_size_divisor = head_size_divisor
        self.intermediate_size = intermediate_size or int(hidden_size * 3.5 // 32 * 32)
        self.time_mix_extra_dim = time_mix_extra_dim or (64 if hidden_size >= LARGE else 32)
        self.time_decay_extra_dim = time_decay_extra_dim or (128 if hidden_size >= LARGE else 64)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_cache = use_cache
        if self.attention_hidden_size % head_size:
            raise ValueError(f"head_size {head_size} does not divide attention_hidden_size {attention_hidden_size}")
        super().__init__(**{"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False, **kwargs})


class _FloatGroupNorm(nn.GroupNorm):
    """Over float32, whatever the dtype of its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.group_norm(x, self.num_groups, self.weight.float(), self.bias.float(), self.eps)


class Rwkv6SelfAttention(nn.Module):
    """Time mixing: the five inputs are mixed with the token before by weights that the data decides."""

    def __init__(self, config: Rwkv6Config, depth: float) -> None:
        super().__init__()
        self.depth = depth
        hidden, attention = config.hidden_size, config.attention_hidden_size
        self.heads, self.head_size = attention // config.head_size, config.head_size
        for name in MIXES:
            self.register_parameter(f"time_maa_{name}", nn.Parameter(torch.empty(1, 1, hidden)))
        self.time_maa_w1 = nn.Parameter(torch.empty(hidden, 5 * config.time_mix_extra_dim))
        self.time_maa_w2 = nn.Parameter(torch.empty(5, config.time_mix_extra_dim, hidden))
        self.time_decay = nn.Parameter(torch.empty(1, 1, attention))
        self.time_decay_w1 = nn.Parameter(torch.empty(hidden, config.time_decay_extra_dim))
        self.time_decay_w2 = nn.Parameter(torch.empty(config.time_decay_extra_dim, attention))
        self.time_faaaa = nn.Parameter(torch.empty(self.heads, self.head_size))
        self.receptance = nn.Linear(hidden, attention, bias=False)
        self.key = nn.Linear(hidden, attention, bias=False)
        self.value = nn.Linear(hidden, attention, bias=False)
        self.gate = nn.Linear(hidden, attention, bias=False)
        self.output = nn.Linear(attention, hidden, bias=False)
        self.ln_x = _FloatGroupNorm(self.heads, attention, eps=1e-5 * config.head_size_divisor**2)

    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, Tensor]:
        """The output [batch, tokens, hidden] and the new wkv state."""
        change = shifted(x, None if state is None else state.attention) - x
        first, *own = (self.get_parameter(f"time_maa_{name}") for name in MIXES)
        low = torch.tanh((x + change * first) @ self.time_maa_w1).unflatten(-1, (5, -1))
        of_data = torch.einsum("btnr,nrh->nbth", low, self.time_maa_w2)
        w, k, v, r, g = (x + change * (mix + more) for mix, more in zip(own, of_data, strict=True))
        decay = self.time_decay.float() + (torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2).float()
        parts = (self.receptance(r), self.key(k), self.value(v), -decay.exp())
        receptance, key, value, decay = (part.unflatten(-1, (self.heads, self.head_size)) for part in parts)
        y, wkv = wkv6(receptance, key, value, decay, self.time_faaaa, None if state is None else state.wkv)
        y = self.ln_x(y.flatten(0, 1).flatten(1)).view(*x.shape[:2], -1).to(x.dtype)
        return self.output(y * nn.functional.silu(self.gate(g))), wkv

    @torch.no_grad()
    def reset(self) -> None:
        """Starts as the authors do: channels look back over different lengths of time, low-rank parts give nothing."""
        for name in MIXES:
            mix = self.get_parameter(f"time_maa_{name}")
            mix.copy_(_mixes(mix, (0.5 if name in "rg" else 1.0) * (1 - self.depth)))
        for zero, small in ((self.time_maa_w1, self.time_maa_w2), (self.time_decay_w1, self.time_decay_w2)):
            zero.zero_()
            small.uniform_(-0.01, 0.01)
        place = torch.linspace(0, 1, self.time_decay.shape[-1])
        self.time_decay.copy_(-6 + 5 * place ** (0.7 + 1.3 * self.depth))
        zigzag = 0.1 * (torch.arange(len(place)) % 3 - 1)
        self.time_faaaa.copy_(((1 - place) * self.depth + zigzag).view_as(self.time_faaaa))


class Rwkv6FeedForward(nn.Module):
    """Channel mixing: squared ReLU behind a token shift, gated."""

    def __init__(self, config: Rwkv6Config, depth: float) -> None:
        super().__init__()
        self.depth = depth
        self.time_maa_k = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.time_maa_r = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.receptance = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, state: LayerState | None) -> Tensor:
        """The output [batch, tokens, hidden]."""
        change = shifted(x, None if state is None else state.feed_forward) - x
        key = torch.relu(self.key(x + change * self.time_maa_k)).square()
        return torch.sigmoid(self.receptance(x + change * self.time_maa_r)) * self.value(key)  # type: ignore[no-any-return]

    @torch.no_grad()
    def reset(self) -> None:
        """Starts as the authors do."""
        for mix in (self.time_maa_k, self.time_maa_r):
            mix.copy_(_mixes(mix, 1 - self.depth))


def _mixes(like: Tensor, power: float) -> Tensor:
    """How much of the token before every channel takes: from all to nothing."""
    return 1 - (torch.arange(like.shape[-1]) / like.shape[-1]) ** power


class Rwkv6Block(nn.Module):
    """One layer."""

    def __init__(self, config: Rwkv6Config, index: int) -> None:
        super().__init__()
        self.index = index
        if index == 0:
            self.pre_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        depth = index / max(1, config.num_hidden_layers - 1)
        self.attention = Rwkv6SelfAttention(config, depth)
        self.feed_forward = Rwkv6FeedForward(config, depth)

    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """The output [batch, tokens, hidden] and the new state."""
        x = self.pre_ln(x) if self.index == 0 else x
        seen = self.ln1(x)
        y, wkv = self.attention(seen, state)
        x = x + y
        read = self.ln2(x)
        return x + self.feed_forward(read, state), LayerState(seen[:, -1], wkv, read[:, -1])


class Rwkv6PreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = Rwkv6Config
    base_model_prefix = "rwkv"
    _no_split_modules = ["Rwkv6Block"]  # noqa: RUF012 (as transformers declares it)
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Rwkv6SelfAttention | Rwkv6FeedForward):
            module.reset()
        elif isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=max(1.0, module.out_features / module.in_features) ** 0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -1e-4, 1e-4)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class Rwkv6Model(RecurrentStack, Rwkv6PreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: Rwkv6Config) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Rwkv6Block(config, index) for index in range(config.num_hidden_layers))
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.post_init()


class Rwkv6ForCausalLM(RecurrentHead, Rwkv6PreTrainedModel, GenerationMixin):
    """The model with its output head."""

    def __init__(self, config: Rwkv6Config) -> None:
        super().__init__(config)
        self.rwkv = Rwkv6Model(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
