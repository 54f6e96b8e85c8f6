"""A `torch.cuda` façade: the calls that Megatron makes without asking, answered for the CPU.

`torch.cuda.is_available()` stays False, so code that does ask takes its CPU branch.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from .patching import replace, require_module

CPU = torch.device("cpu")
# Factories that Megatron calls with pin_memory=True or device="cuda". torch refuses to pin memory without a driver.
FACTORIES = (
    *("arange", "empty", "empty_like", "full", "full_like", "ones", "ones_like"),
    *("rand", "randint", "randn", "tensor", "zeros", "zeros_like"),
)


class Event:
    """`torch.cuda.Event` on a device that finishes every call before it returns. Recording takes the time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._time = 0.0

    def record(self, *_: Any) -> None:
        """Take the time."""
        self._time = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds between this event's record and `end`'s."""
        return (end._time - self._time) * 1e3

    def query(self) -> bool:
        """Return that the work before the event is done."""
        return True

    def wait(self, *_: Any) -> None:
        """Return at once."""

    def synchronize(self) -> None:
        """Return at once."""


class Stream:
    """`torch.cuda.Stream` on a device that has one, synchronous stream. Also the context manager that selects it."""

    cuda_stream = 0
    stream_id = 0
    device = CPU

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        """Record and return an event."""
        event = event or Event()
        event.record()
        return event

    def query(self) -> bool:
        """Return that the stream is idle."""
        return True

    def wait_stream(self, *_: Any) -> None:
        """Return at once."""

    def wait_event(self, *_: Any) -> None:
        """Return at once."""

    def synchronize(self) -> None:
        """Return at once."""


def _always(answer: Any) -> Callable[..., Any]:
    """Return a new function at every call: torch._dynamo has one rule per function object, and asserts it."""
    return lambda *_, **__: answer


def _itself() -> Callable[..., Any]:
    return lambda tensor_or_module, *_, **__: tensor_or_module


def install_cuda() -> None:
    """Answer `torch.cuda.*`, `Tensor.cuda` and `Module.cuda` for the CPU."""
    stream = Stream()
    answers: dict[str, Any] = {
        "current_device": _always(CPU),
        "current_stream": _always(stream),
        "default_stream": _always(stream),
        "stream": _always(stream),
        "Event": Event,
        "Stream": Stream,
        "set_device": _always(None),
        "synchronize": _always(None),
        "empty_cache": _always(None),
        "reset_peak_memory_stats": _always(None),
        "memory_allocated": _always(0),
        "max_memory_allocated": _always(0),
        "memory_reserved": _always(0),
        "max_memory_reserved": _always(0),
        "memory_stats": lambda *_, **__: defaultdict(int),
        "is_current_stream_capturing": _always(False),
        "manual_seed": lambda seed: torch.default_generator.manual_seed(int(seed)),
        "manual_seed_all": lambda seed: torch.default_generator.manual_seed(int(seed)),
        "get_rng_state": lambda *_, **__: torch.get_rng_state(),
        "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state.cpu()),
    }
    for name, answer in answers.items():
        replace("torch", torch.cuda, name, answer)
    for name in ("get_rng_state", "set_rng_state"):
        replace("torch", torch.cuda.random, name, answers[name])
    for name in ("range_push", "range_pop"):
        replace("torch", torch.cuda.nvtx, name, _always(None))
    replace("torch", torch.Tensor, "cuda", _itself())
    replace("torch", torch.nn.Module, "cuda", _itself())


def install_unpinned_memory() -> None:
    """Let tensor factories ignore `pin_memory` and put on the CPU what is asked for on `cuda`."""
    # `with torch.device("meta")`, which transformers loads models in, knows the factories by identity. It collects them
    # at its first use and keeps them: that has to happen before.
    require_module("torch", "torch.utils._device")._device_constructors()
    for name in FACTORIES:
        replace("torch", torch, name, _on_cpu(getattr(torch, name)))
    replace("torch", torch.Tensor, "pin_memory", _itself())


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("pin_memory", None)
        if (device := kwargs.get("device")) is not None and str(device).startswith("cuda"):
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    return create
