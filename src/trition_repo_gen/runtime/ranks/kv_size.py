"""How much memory a rank's KV cache gets."""

import torch

from ..settings import Settings

_CPU_GIB = 1.0
_GPU_SHARE = 0.8
"""Of what is free after loading; the rest is for activations, logits and CUDA graphs."""


def kv_cache_gib(settings: Settings, token_bytes: int, device: torch.device) -> float:
    """Return the size in GiB: the setting, or what is sensible for the device.

    Args:
        settings: the deployment.
        token_bytes: what a token's keys and values take on this rank.
        device: where the cache will lie.
    """
    if settings.kv_cache_gib:
        return settings.kv_cache_gib
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free / 2**30 * _GPU_SHARE)
    return min(_CPU_GIB, token_bytes * (settings.max_requests + 1) * settings.max_sequence_length / 2**30)
