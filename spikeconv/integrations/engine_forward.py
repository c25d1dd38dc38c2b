"""A forward that is replaced on the instance: what decoders and recurrent models check before the engine runs."""

import inspect
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from spikeconv.errors import SpikeconvWarning
from spikeconv.integrations.memory import KEYWORDS, memory_keyword
from spikeconv.integrations.watched import Watched

__all__ = ["EngineForward"]

ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "use_cache", *KEYWORDS}
"""Arguments that the engine reads."""

IGNORED = {"return_dict", "cache_position", "logits_to_keep"}
"""Arguments that do not change what a decoder computes: positions and lengths are known without them."""


class EngineForward(ABC):
    """The forward of a model without its head, in the signature that it has in transformers."""

    def __init__(self, model: Any) -> None:
        self.model, self._class = model, type(model.base_model)
        self._keyword = memory_keyword(model.base_model)
        self._told: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        # What `generate` looks at. Read once: a look at a signature takes as long as a layer for one token.
        parameters = list(inspect.signature(self._class.forward).parameters.values())[1:]
        self.__signature__ = inspect.Signature(parameters)
        self._names = [parameter.name for parameter in parameters]
        self._forget()

    def _forget(self) -> None:
        self._watched: Watched | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A model that is copied or read again has no base yet when its forward has all of this.
        return {"model": self.model, "_class": self._class, "_keyword": self._keyword, "_told": self._told}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the model gives: last hidden states float32 [batch, tokens, hidden], and what it remembers."""
        found = self._by_engine(arguments, options)
        return self._class.forward(self.model.base_model, *arguments, **options) if found is None else found

    def _by_engine(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        given = dict(zip(self._names, arguments, strict=False)) | options
        ids = given.get("input_ids")
        if (
            torch.is_grad_enabled()
            or not isinstance(ids, Tensor)
            or ids.dim() != 2
            or not ids.numel()
            or ids.dtype != torch.int64
            or not ids.is_cpu
            or any(value not in (None, False) for name, value in given.items() if name not in ARGUMENTS | IGNORED)
            or given.get("return_dict") is False
            or not self._is_known()
        ):
            return None
        return self._run(ids, given)

    @abstractmethod
    def _run(self, ids: Tensor, given: dict[str, Any]) -> Any:
        """The engine's result for int64 [batch, tokens]; None where the modules run."""

    def _tell(self, why: str) -> None:
        """Say once why a forward takes the modules' own way."""
        if why not in self._told:
            self._told.add(why)
            message = f"This forward runs transformers' own layers, not the engine: {why}."
            warnings.warn(message, SpikeconvWarning, stacklevel=5)

    def _is_unwatched(self) -> bool:
        """Whether nobody is told of encodings."""
        return self._watched is not None and self._watched.is_unwatched()

    def _is_known(self) -> bool:
        """Whether the modules are those that the engine was made of, and nobody replaces one, or watches anything but
        encodings."""
        config = self._config = self.model.config.get_text_config()
        if (
            torch.compiler.is_compiling()
            or self.model.base_model.training
            or config.output_hidden_states
            or config.output_attentions
            or not config.return_dict
            or _has_any_global_hook()
        ):
            return False
        if self._watched is None or not self._watched.is_same():
            self._forget()
            self._watched = Watched(self.model)
        return self._watched.is_alone()
