"""From a request's input tensors to sequences, each value checked once."""

import secrets
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..common import wire
from ..common.protocol import SequenceRequest
from ..common.wire import BadRequestError
from .images import ImageLimits, read_elements

INPUTS = wire.names(wire.INPUTS)
"""Names of the inputs of any model with ranks, and of its streaming model."""

_SEVERAL = {tensor.name for tensor in wire.INPUTS if tensor.dims != 1}
"""Inputs of which a sequence may have several elements."""
_READ_APART = {wire.PROMPTS.name, wire.IMAGES.name, "use_greedy"}


def read_sequences(
    tensors: Mapping[str, NDArray[Any]], max_prompt_bytes: int, image_limits: ImageLimits | None = None
) -> list[SequenceRequest]:
    """Return a request's sequences.

    Args:
        tensors: inputs by name, each of shape (N, 1), (N, any) where `wire.INPUTS` says so, and with its datatypes.
            Only `prompts` is required.
        max_prompt_bytes: longer prompts cannot fit, whatever their tokens are.
        image_limits: what a multimodal model accepts, None for a language model.

    Raises:
        BadRequestError: a tensor is missing, has the wrong shape, or a value is out of bounds.
    """
    if "prompts" not in tensors:  # Triton only counts the inputs, so that another may be there instead
        raise BadRequestError("prompts is missing; send one text per sequence.")
    count = tensors["prompts"].shape[0]
    for name, tensor in tensors.items():
        if tensor.shape != (count, 1) and not (tensor.ndim == 2 and len(tensor) == count and name in _SEVERAL):
            raise BadRequestError(f"{name} has the shape {list(tensor.shape)}; it has to be [{count}, 1].")
    if count == 0:
        raise BadRequestError("prompts has no sequences; send at least one.")
    return [
        _read_sequence({name: tensor[index] for name, tensor in tensors.items()}, max_prompt_bytes, image_limits)
        for index in range(count)
    ]


def _read_sequence(values: Mapping[str, Any], max_prompt_bytes: int, limits: ImageLimits | None) -> SequenceRequest:
    fields: dict[str, Any] = {
        "prompt": _prompt(values["prompts"][0], max_prompt_bytes),
        "images": [] if limits is None else read_elements(values.get("images", ()), limits),
        "seed": secrets.randbits(63),
    }
    for tensor in wire.INPUTS:
        if tensor.ignored or tensor.name in _READ_APART:
            continue
        if tensor.name in values:
            fields[tensor.attribute] = tensor.read_elements(values[tensor.name])
        elif (default := tensor.default_for(multimodal=limits is not None)) is not None:
            fields[tensor.attribute] = default
    if "use_greedy" in values and values["use_greedy"][0]:
        fields["top_k"] = 1
    return SequenceRequest(**fields)


def _prompt(value: Any, max_bytes: int) -> str:
    size = len(value.encode() if isinstance(value, str) else bytes(value))
    if size > max_bytes:
        raise BadRequestError(f"prompts has a text of {size} bytes; this model's sequences hold at most {max_bytes}.")
    return wire.PROMPTS.read(value)
