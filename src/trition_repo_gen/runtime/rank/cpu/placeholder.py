"""Lets `megatron.bridge` be imported without Transformer Engine.

megatron-bridge 0.6.2, megatron/bridge/peft/lora_layers.py:20, has `import transformer_engine.pytorch as te` without a
guard, although only annotations and the fused LoRA need it. While that one module's body runs, a placeholder stands in
`sys.modules`; everything else sees «not installed», also where Transformer Engine is installed: its wheel imports
without a GPU, but its layers refuse the CPU.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

LORA_LAYERS = "megatron.bridge.peft.lora_layers"
# What lora_layers.py imports, and what decides by importing Transformer Engine: settled before the placeholder exists.
_BEFORE = (
    "megatron.core.extensions.transformer_engine",
    "megatron.core.transformer.moe.moe_utils",
    "megatron.bridge.peft.adapter_wrapper",
    "megatron.bridge.peft.lora_merge",
)
_NAMES = ("transformer_engine", "transformer_engine.pytorch")


class _AnyAttribute(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Missing(metaclass=_AnyAttribute):
    """Stands for any class of Transformer Engine in annotations and `isinstance`; cannot be made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("Transformer Engine does not run on a CPU, and the CPU backend has no class of that name.")


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Runs `around(execute, module)` instead of plainly executing one module, when that is imported."""

    def __init__(self, name: str, around: Callable[[Callable[[], None], ModuleType], None]) -> None:
        self._name, self._around = name, around
        self._inner: importlib.abc.Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own specification, with this loader around its loader."""
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            self._inner, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        assert self._inner is not None
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module."""
        inner = self._inner
        assert inner is not None
        self._around(lambda: inner.exec_module(module), module)


def hide_transformer_engine() -> None:
    """Make `import transformer_engine` raise ModuleNotFoundError and `find_spec` return None.

    Raises:
        RuntimeError: it is imported already.
    """
    if sys.modules.get("transformer_engine") is not None:
        raise RuntimeError("transformer_engine is imported already; install the CPU backend before it.")
    sys.modules["transformer_engine"] = None  # type: ignore[assignment]  # documented way to block an import


def install() -> None:
    """Block Transformer Engine for all modules but megatron.bridge.peft.lora_layers."""
    hide_transformer_engine()
    sys.meta_path.insert(0, Hook(LORA_LAYERS, _with_placeholder))


def _with_placeholder(execute: Callable[[], None], _: ModuleType) -> None:
    for name in _BEFORE:
        importlib.import_module(name)
    top, sub = (ModuleType(name) for name in _NAMES)
    top.__path__ = sub.__path__ = []
    sub.__getattr__ = lambda name: Missing  # type: ignore[method-assign]
    top.pytorch = sub  # type: ignore[attr-defined]
    sys.modules.update(zip(_NAMES, (top, sub), strict=True))
    try:
        execute()
    finally:
        del sys.modules["transformer_engine.pytorch"], sys.modules["transformer_engine"]
        hide_transformer_engine()
