"""Registers the checkpoint format and our model classes with transformers, without importing it before the user does.

transformers has no entry points for either, and importing its registries takes seconds, which `spikeconv --help`
should not. So each registration runs right after a module of transformers that every use passes through.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_on_import"]

REGISTRATIONS = {
    "transformers.modeling_utils": "spikeconv.integrations.transformers",
    "transformers.models.auto.modeling_auto": "spikeconv.models.register",
    "transformers.models.auto.tokenization_auto": "spikeconv.models.register_tokenizers",
}
"""Module of ours to import after a module of transformers; one that everything that ours imports is ready behind.

(The registry of quantizers is imported on the way to `modeling_utils`, halfway through the caches and the attention.)
"""


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the normal finders import a registry, then imports our module."""

    def __init__(self, registry: str, ours: str) -> None:
        self._registry, self._ours = registry, ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._registry:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._ours)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader, ours: str) -> None:
        self._inner, self._ours = inner, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        importlib.import_module(self._ours)


def register_on_import() -> None:
    """Register now with what of transformers is loaded, and with the rest as soon as it is."""
    for registry, ours in REGISTRATIONS.items():
        if registry in sys.modules:
            importlib.import_module(ours)
        else:
            sys.meta_path.insert(0, _AfterImport(registry, ours))
