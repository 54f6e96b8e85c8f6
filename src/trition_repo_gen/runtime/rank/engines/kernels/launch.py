"""Kernels that begin while the one before them still runs: programmatic dependent launch, on Hopper and later."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def dependent(device: torch.device) -> dict[str, Any]:
    """Return the arguments with which a kernel that calls the functions below is launched on this device.

    A kernel that is launched like this must call `after_the_last` before it reads what another wrote, and before it
    writes: only then is every kernel before it done.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 9:
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}


@triton.jit  # type: ignore[untyped-decorator]
def begin_the_next(DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Let the next kernel begin as soon as there is room beside this one."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit  # type: ignore[untyped-decorator]
def after_the_last(DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait until the kernel before this one has written everything."""
    if DEPENDENT:
        gdc_wait()
