"""Registers the checkpoint format with transformers, without importing it before the user does.

transformers has no entry points for quantization methods, and importing its registry takes seconds, which
`spikeconv --help` should not. So the registration runs right after `transformers.quantizers.auto` is imported.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_on_import"]

REGISTRY = "transformers.quantizers.auto"
INTEGRATION = "spikeconv.integrations.transformers"


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the normal finders import the registry, then imports our integration."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        importlib.import_module(INTEGRATION)


def register_on_import() -> None:
    """Register now if transformers is loaded, else as soon as it is."""
    if REGISTRY in sys.modules:
        importlib.import_module(INTEGRATION)
    else:
        sys.meta_path.insert(0, _AfterImport())
