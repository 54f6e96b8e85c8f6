"""Choose the kernels that compute attention over the paged cache on a GPU, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ....common.errors import LoadError

_OLDEST_FLASH_ATTENTION = "2.7.3"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The generations of FlashAttention in the environment, and whether it has FlashMLA."""

    fa2: bool = False
    fa3: bool = False
    fa4: bool = False
    flash_mla: bool = False

    def generation(self, architecture: int, *, latents: bool) -> int:
        """Return the generation to use on a GPU of SM `architecture`.x; with `latents`, for prompts only.

        FlashAttention 4 runs on Hopper and later. On Hopper it cannot split keys over blocks, which FlashAttention 3
        can: long contexts of few sequences are faster with 3. FlashAttention 2 reads blocks of 256 tokens, but FlashMLA
        needs blocks of 64.

        Raises:
            LoadError: there is none.
        """
        if latents and not self.flash_mla:
            raise LoadError(
                "Multi-latent attention needs FlashMLA on a GPU, which is not installed; "
                "install flash_mla from github.com/deepseek-ai/FlashMLA."
            )
        if self.fa3 and architecture == 9:
            return 3
        if self.fa4 and architecture >= 9:
            return 4
        if self.fa2 and not latents:
            return 2
        if latents:
            raise LoadError(
                "Multi-latent attention reads prompts by FlashAttention 3 or 4, of which the ranks' environment has "
                "none for this GPU; on Hopper and later install flash-attn-4 there."
            )
        wanted = "flash-attn-4" if architecture >= 9 else f"flash-attn>={_OLDEST_FLASH_ATTENTION}"
        raise LoadError(f"The ranks' environment has no FlashAttention for this GPU; install {wanted} there.")


def choose(config: Any) -> str:
    """Pick the generation of FlashAttention that runs on this GPU, write it onto the configuration, return its name.

    Raises:
        LoadError: nothing that is installed can serve this model here.
    """
    from megatron.core.transformer import attention
    from megatron.core.utils import is_fa_min_version

    installed = Installed(
        fa2=attention.flash_attn_with_kvcache is not None and bool(is_fa_min_version(_OLDEST_FLASH_ATTENTION)),
        fa3=bool(attention.HAVE_FA3),
        fa4=bool(attention.HAVE_FA4),
        flash_mla=bool(attention.HAVE_FMLA),
    )
    latents = bool(getattr(config, "multi_latent_attention", False))
    version = installed.generation(torch.cuda.get_device_capability()[0], latents=latents)
    if version != (4 if installed.fa4 else 3 if installed.fa3 else 2):  # Megatron Core's own choice
        config.flash_attention_version = version
    return f"FlashAttention {version}" + (" and FlashMLA" if latents else "")


def require_paged(model: torch.nn.Module) -> None:
    """Refuse layers whose attention the engine does not compute over its cache.

    Megatron Core's engine hands queries, keys and values to FlashAttention itself and never calls a layer's
    `core_attention` (megatron-core 0.19.2, core/transformer/attention.py, `flash_decode_and_prefill`): what a family's
    own class does there, such as capping logits or other windows, would be silently missing. Only another scale is
    passed on, as an attribute of the layer, which is set here.

    Raises:
        LoadError: a layer has an attention class of its family's own.
    """
    from megatron.core.extensions.transformer_engine import TEDotProductAttention
    from megatron.core.transformer.attention import SelfAttention
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    for layer in model.modules():
        if not isinstance(layer, SelfAttention):
            continue
        kind = type(layer.core_attention)
        if kind not in (TEDotProductAttention, DotProductAttention):
            raise LoadError(
                f"The model's layers compute attention by {kind.__name__}, which the engine's paged attention does not "
                "do; such models are not served."
            )
        if layer.config.softmax_scale is not None:
            layer.softmax_scale = layer.config.softmax_scale
