"""How much memory a rank's KV cache gets."""

import torch
import torch.distributed as dist

from ..settings import Settings

_CPU_GIB = 1.0


def kv_cache_gib(settings: Settings, token_bytes: int, device: torch.device) -> float:
    """Return the size in GiB: the setting, or what is sensible for the device.

    Collective: all ranks get the same, by the one with the least memory, so that all come to the same schedule.

    Args:
        settings: the deployment.
        token_bytes: what a token's keys and values take on this rank.
        device: where the cache will lie.
    """
    if settings.kv_cache_gib:
        return settings.kv_cache_gib
    if device.type == "cuda":
        free = torch.tensor(torch.cuda.mem_get_info(device)[0], device=device)
        dist.all_reduce(free, dist.ReduceOp.MIN)
        return float(free) / 2**30 * settings.kv_cache_fraction
    return min(_CPU_GIB, token_bytes * (settings.max_requests + 1) * settings.max_sequence_length / 2**30)
