"""Checks the parameters of a request; Triton's `generate` turns keys that are not inputs into parameters."""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from ..common import wire
from ..common.wire import PRIORITY_PARAMETER, BadRequestError

_TRITONS = frozenset([PRIORITY_PARAMETER, "id"])
"""Triton reports the `id` in the body of a `generate` request as a parameter, too."""
_HEADERS = frozenset(
    ["accept", "authorization", "baggage", "connection", "cookie", "host", "traceparent", "tracestate"]
)
"""Names of headers without a hyphen."""


def check_parameters(request: Any, inputs: Collection[str]) -> None:
    """Refuse parameters that nothing reads, such as misspelt inputs of `generate`.

    HTTP headers are accepted: `--http-header-forward-pattern` forwards them as parameters.

    Args:
        request: the Python backend's.
        inputs: names of the inputs that models of this kind can have.

    Raises:
        BadRequestError: a parameter is unknown; the text names the nearest input.
    """
    parameters: Mapping[str, Any] = json.loads(request.parameters() or "{}")
    for name, value in parameters.items():
        if name not in _TRITONS and not (isinstance(value, str) and _is_header(name)):
            raise BadRequestError(_unknown(name, inputs))


def _is_header(name: str) -> bool:
    return "-" in name or name.lower() in _HEADERS or name.startswith("triton_")


def _unknown(name: str, inputs: Collection[str]) -> str:
    if name in inputs:
        return f"This model has no input {name!r}; leave it out."
    spellings = _spellings(inputs)
    if near := difflib.get_close_matches(name.lower(), spellings, n=1):
        return f"There is no parameter {name!r}; write {spellings[near[0]]!r}."
    return f"There is no parameter {name!r}; there are {', '.join(sorted(inputs))}."


def _spellings(inputs: Collection[str]) -> dict[str, str]:
    """Return the inputs by their own names and by the names of the same inputs in REST and TensorRT-LLM."""
    others: dict[str, str] = {}
    for tensor in wire.INPUTS:
        names = (tensor.name, tensor.rest, tensor.trtllm.name if tensor.trtllm is not None else "")
        own = next((name for name in names if name in inputs), None)
        if own is not None:
            others |= {name: own for name in names if name}
    return others | {name: name for name in inputs}
