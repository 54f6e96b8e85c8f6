"""Report the progress of recording CUDA graphs, from Megatron Core's log messages."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Self

_GRAPH = re.compile(r"\[graph (\d+)/(\d+)\]")
"""Logged after each graph (megatron-core 0.19.2, dynamic_engine.py)."""
_SECONDS = 1.0


class GraphProgress(logging.Handler):
    """Reports how many graphs are recorded, at most once a second and at the end, while it is the context.

    Args:
        progress: takes the lines.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._reported_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Report if the message is about a graph."""
        if found := _GRAPH.search(record.getMessage()):
            now = time.monotonic()
            if now - self._reported_at >= _SECONDS or found[1] == found[2]:
                self._reported_at = now
                self._progress(f"recording CUDA graphs: {found[1]} of {found[2]}")

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
