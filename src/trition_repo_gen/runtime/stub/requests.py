"""From a request's input tensors to sequences, each value checked once."""

import secrets
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..common import wire
from ..common.protocol import PromptLimit, SequenceRequest
from ..common.wire import BadRequestError
from .images import ImageLimits, read_elements

INPUTS = wire.names(wire.INPUTS)
"""Names of the inputs of any model with ranks, and of its streaming model."""

_SEVERAL = {tensor.name for tensor in wire.INPUTS if tensor.dims != 1}
"""Inputs of which a sequence may have several elements."""
_READ_APART = {wire.PROMPTS.name, wire.IMAGES.name, "use_greedy"}


def read_sequences(
    tensors: Mapping[str, NDArray[Any]], prompt_limit: PromptLimit, image_limits: ImageLimits | None = None
) -> list[SequenceRequest]:
    """Return a request's sequences.

    Args:
        tensors: inputs by name, each of shape (N, 1), (N, any) where `wire.INPUTS` says so, and with its datatypes.
            Only `prompts` is required.
        prompt_limit: how long a prompt may be.
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
        _read_sequence({name: tensor[index] for name, tensor in tensors.items()}, prompt_limit, image_limits)
        for index in range(count)
    ]


def _read_sequence(values: Mapping[str, Any], prompt_limit: PromptLimit, limits: ImageLimits | None) -> SequenceRequest:
    fields: dict[str, Any] = {
        "prompt": _prompt(values["prompts"][0], prompt_limit),
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
    sequence = SequenceRequest(**fields)
    _check_lengths(sequence)
    return sequence


def _check_lengths(sequence: SequenceRequest) -> None:
    if sequence.max_length == 0 and not (sequence.echo and (sequence.log_probs or sequence.top_logprobs)):
        raise BadRequestError(
            "max_length is 0; it has to be 1 or more, or echo and compute_logprob have to be set, for the "
            "log-probabilities of the prompt."
        )
    if sequence.min_length > sequence.max_length:
        raise BadRequestError(
            f"min_length is {sequence.min_length}; it has to be at most max_length, which is {sequence.max_length}."
        )


def _prompt(value: Any, limit: PromptLimit) -> str:
    size = len(value.encode() if isinstance(value, str) else bytes(value))
    if size > limit.max_bytes:
        raise BadRequestError(
            f"The prompt has {size} bytes, but this model's {wire.context_length(limit.max_tokens)} with the answer, "
            f"which have at most {limit.max_bytes} bytes; shorten it."
        )
    return wire.PROMPTS.read(value)
