"""Mistakes of Megatron Core 0.19 that its dynamic engine stumbles over, on GPUs too. Each function mends one."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor


def apply() -> None:
    """Mend what the installed version needs mended. Calling it again does nothing."""
    mla_decode_only()
    fa4_without_split_kv()
    metadata_after_async_step()


def mla_decode_only() -> bool:
    """Tell paged attention over latents whether the batch only decodes.

    megatron-core 0.19.2, core/transformer/multi_latent_attention.py:414, calls `flash_decode_and_prefill` without its
    required last argument `is_decode_only` (core/transformer/attention.py:1022): TypeError at the first step. While
    decoding, and only then, there are no values beside the cached latents (:827), so the argument follows from `v`.

    Returns:
        whether the installed version needs it.
    """
    from megatron.core.transformer.attention import Attention
    from megatron.core.transformer.multi_latent_attention import MultiLatentAttention

    parameter = inspect.signature(Attention.flash_decode_and_prefill).parameters.get("is_decode_only")
    required = parameter is not None and parameter.default is inspect.Parameter.empty
    call = inspect.getsource(MultiLatentAttention.forward).partition("self.flash_decode_and_prefill(")[2]
    if not required or not call or "is_decode_only" in call.partition(")\n")[0]:
        return False
    if "flash_decode_and_prefill" in vars(MultiLatentAttention):
        return True  # mended already

    def flash_decode_and_prefill(self: Any, q: Tensor, k: Tensor, v: Tensor | None, *rest: Any, **named: Any) -> Any:
        return Attention.flash_decode_and_prefill(self, q, k, v, *rest, is_decode_only=v is None, **named)

    MultiLatentAttention.flash_decode_and_prefill = flash_decode_and_prefill
    return True


def fa4_without_split_kv() -> bool:
    """Keep FlashAttention 4 from splitting keys on Hopper.

    megatron-core 0.19.2, core/transformer/attention.py:1102 and :1229, lets FlashAttention 4 choose `num_splits`;
    its 4.0.0b36 then fails an assertion, for want of SplitKV on SM 9.0.

    Returns:
        whether this machine needs it.
    """
    from megatron.core.transformer import attention

    if not attention.HAVE_FA4 or not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    original = attention.flash_attn4_varlen_func
    if getattr(original, "never_splits", False):
        return True

    @functools.wraps(original)
    def flash_attn4_varlen_func(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "num_splits": 1})

    flash_attn4_varlen_func.never_splits = True  # type: ignore[attr-defined]
    attention.flash_attn4_varlen_func = flash_attn4_varlen_func
    return True


def metadata_after_async_step() -> None:
    """Move every sequence's metadata when asynchronous scheduling closes the gaps that finished sequences leave.

    megatron-core 0.19.2, text_generation_controller.py:1999, moves temperature, top-k and top-p of the running
    sequences and forgets their log-probability flags, which the next step that admits sequences reads.
    """
    from megatron.core.inference.text_generation_controllers.text_generation_controller import TextGenerationController

    original = getattr(TextGenerationController, "_compact_async_sched_logits", None)
    if original is None or getattr(original, "moves_all", False):
        return

    @functools.wraps(original)
    def compact(self: Any, survivors: Tensor) -> None:
        original(self, survivors)
        context = self.inference_wrapped_model.inference_context
        for name, values in context.request_metadata.items():
            context.active_request_metadata[name][: len(survivors)].copy_(values[: len(survivors)])

    compact.moves_all = True  # type: ignore[attr-defined]
    TextGenerationController._compact_async_sched_logits = compact
