"""Start kernels while the previous one still runs: programmatic dependent launch, on Hopper and later."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def dependent(device: torch.device) -> dict[str, Any]:
    """Return the launch arguments of a kernel that calls the functions below on this device.

    Such a kernel must call `after_the_last` before it reads what another kernel wrote, and before it writes anything:
    the kernels before it have finished only then.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 9:
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}


@triton.jit  # type: ignore[untyped-decorator]
def begin_the_next(DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Let the next kernel start as soon as the GPU has resources for it."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit  # type: ignore[untyped-decorator]
def after_the_last(DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait until the kernel before this one has written everything."""
    if DEPENDENT:
        gdc_wait()
