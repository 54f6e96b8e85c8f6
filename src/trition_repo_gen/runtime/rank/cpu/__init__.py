"""The CPU backend: Megatron Core and Megatron-Bridge on a machine without a CUDA device.

Order of calls: `install` before the first import of megatron, `after_import` once `megatron.bridge` is imported,
`adapt_config` on a model's configuration before the model is built. Nothing here may run where a GPU is: the backend
takes the place of Transformer Engine and of FlashAttention for the whole process.

This module imports neither torch nor megatron by itself, so that asking `needed` costs nothing more than torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["adapt_config", "after_import", "install", "install_facade", "needed"]


def needed() -> bool:
    """Return whether this process sees no CUDA device."""
    import torch

    return not torch.cuda.is_available()


def install() -> None:
    """Prepare the process: `torch.cuda` façade, unpinned memory, pure-torch layers. Calling it again does nothing.

    Raises:
        RuntimeError: megatron.core is imported already, or this process has a CUDA device.
        PatchError: an installed library does not look as this backend expects.
    """
    from . import backend

    backend.install()


def install_facade() -> None:
    """Prepare the process for models that bring layers of their own: `torch.cuda` façade and unpinned memory alone.

    Calling it again does nothing.

    Raises:
        RuntimeError: megatron.core is imported already, or this process has a CUDA device.
        PatchError: an installed library does not look as this backend expects.
    """
    from . import backend

    backend.install_facade()


def after_import() -> None:
    """Turn the imported megatron modules to the backend's layers and attention. Calling it again does nothing.

    Raises:
        RuntimeError: `install` was not called, or `megatron.bridge` is not imported yet.
        PatchError: an installed library does not look as this backend expects.
    """
    from . import backend

    backend.after_import()


def adapt_config(config: Any, dtype: torch.dtype | None = None) -> None:
    """Turn off what only GPUs have on a `TransformerConfig` or a Bridge model provider, in place.

    The parallel sizes must be set before: they choose the mixture-of-experts token dispatcher.

    Args:
        config: the configuration; options that its version does not have are skipped.
        dtype: set this parameter dtype as well; None keeps the configuration's.
    """
    from . import config as _config

    _config.adapt_config(config, dtype)
