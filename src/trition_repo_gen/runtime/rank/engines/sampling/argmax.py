"""The column of each row's largest logit, by the device's fastest kernel."""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor


def argmax(logits: Tensor) -> Tensor:
    """Return the column of each row's largest number; of equal ones, the first.

    Args:
        logits: [sequences, vocabulary]

    Returns:
        int64[sequences]
    """
    return _argmax_on(logits.device.type)(logits)


@functools.cache
def _argmax_on(kind: str) -> Callable[[Tensor], Tensor]:
    """Return the fastest argmax of that device; on a GPU torch takes ten times as long for one sequence."""
    by_torch = functools.partial(torch.argmax, dim=-1)
    if kind == "cpu":
        return by_torch
    try:
        from ..kernels.argmax import argmax as fused

        fused(torch.zeros(1, 1, device=kind))
    except Exception as error:  # whatever a compiler says: there is another way
        logging.warning("Tokens are chosen by torch's kernels: %s: %s", type(error).__name__, error)
        return by_torch
    return fused
