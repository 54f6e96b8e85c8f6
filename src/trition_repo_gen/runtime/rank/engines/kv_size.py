"""Choose the size of a rank's KV cache."""

import torch
import torch.distributed as dist

from ...common.errors import LoadError
from ...common.settings import Settings
from . import memory

_CPU_GIB = 1.0


def kv_cache_gib(settings: Settings, token_bytes: int, sizes: memory.ModelSizes, device: torch.device) -> float:
    """Return the size in GiB: the setting, or a default for the device.

    Collective: all ranks get the size of the rank with the least memory, so that all schedule alike.

    Args:
        settings: the deployment.
        token_bytes: of a token's keys and values on this rank.
        sizes: the model's, from which the memory for activations follows.
        device: of the cache.

    Raises:
        LoadError: the GPU has no memory left for it.
    """
    if settings.kv_cache_gib:
        return settings.kv_cache_gib
    if device.type == "cuda":
        return _on_gpu(settings, memory.working_bytes(sizes, settings), device) / memory.GIB
    return min(_CPU_GIB, token_bytes * (settings.max_requests + 1) * settings.max_sequence_length / memory.GIB)


def _on_gpu(settings: Settings, working: int, device: torch.device) -> int:
    torch.cuda.empty_cache()  # frees what loading used, for steps to use
    free, total = torch.cuda.mem_get_info(device)
    size = torch.tensor(memory.kv_cache_bytes(settings, total=total, free=free, working=working), device=device)
    dist.all_reduce(size, dist.ReduceOp.MIN)
    if (least := int(size)) > 0:
        return least
    raise LoadError(
        f"A GPU has no memory left for the KV cache: GPU_MEMORY_UTILIZATION is {settings.gpu_memory_utilization}, and "
        f"of this one's {total / memory.GIB:.1f} GiB {(total - free) / memory.GIB:.1f} are in use and "
        f"{working / memory.GIB:.1f} kept for activations; build with a larger --tensor-parallel-size, fewer "
        "--max-requests or a higher --gpu-memory-utilization."
    )
