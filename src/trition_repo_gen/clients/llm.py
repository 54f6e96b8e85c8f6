"""A client for one model with typed answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trition_repo_gen.errors import QueryError
from trition_repo_gen.runtime.common import wire

from . import images
from .address import parse_url
from .errors import RequestTooSlowError, ServerFailedError
from .streaming import Response
from .text import decode, utf8
from .triton import TritonModel, column

Messages = Sequence[Mapping[str, Any]]
"""A conversation: `[{"role": "user", "content": "..."}]`."""
Prompt = str | Messages

_DTYPES: dict[str, type[np.generic]] = {"BYTES": np.object_, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
_PARAMETERS = {tensor.name: tensor for tensor in wire.INPUTS if tensor is not wire.PROMPTS and not tensor.ignored}


@dataclass(frozen=True)
class Completion:
    """The answer to one sequence."""

    text: str
    finish_reason: str
    """"stop" or "length"."""
    prompt_tokens: int
    completion_tokens: int
    log_probs: tuple[float, ...] | None = None
    """Natural logarithms, one per token; None if no sequence requested them, here and below."""
    top_logprobs: list[dict[str, float]] | None = None
    """For each token, the most likely tokens and their logarithms."""


class LLMClient:
    """A connection to one language or multimodal model; not thread-safe.

    Args:
        url: see `parse_url`.
        model_name: the model's name in Triton.
        timeout: seconds to wait for an answer.

    Raises:
        QueryError: the URL cannot be read, the name is not valid Unicode, or the timeout is not a valid duration.
    """

    def __init__(self, url: str, model_name: str, *, timeout: float = 600.0) -> None:
        self._timeout = timeout
        self._model = TritonModel(parse_url(url), model_name, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._model.close()

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until the server and the model answer.

        Raises:
            QueryError: the server has no such model, something else listens at the address, or `seconds` is not a
                valid duration.
            ServerFailedError: the time is over; the text says what did not answer.
        """
        self._model.wait_ready(seconds)

    def infer(self, prompts: Sequence[Prompt], **parameters: Any) -> list[Completion]:
        """Send one request and return one answer per prompt, in order.

        Args:
            prompts: N texts; with `apply_chat_template` N conversations, as lists of messages or as JSON.
            parameters: any input of `wire.INPUTS` by its name: one value for all sequences, or a list of N.
                `images`, of multimodal models: a list with each prompt's image, list of images, or None; an image is a
                Pillow image, a path, a URL (fetched here), or the bytes of a file. None leaves the server's default.

        Raises:
            QueryError: a parameter is unknown or invalid, or the server refused the request.
            ServerFailedError: the server failed, or did not answer in time.
        """
        wanted = ["sentences", "finish_reason", "prompt_tokens", "completion_tokens"]
        outputs = self.infer_arrays(prompts, wanted, with_lengths=True, **parameters)
        sequences = len(prompts)
        missing = [name for name in wanted if name not in outputs]
        if missing:
            raise QueryError(f"The model has no output {missing[0]}; it was not written by trgen.")
        log_probs = outputs.get("log_probs")
        lengths = outputs.get("log_probs_lengths")
        top = outputs.get("top_logprobs")
        return [
            Completion(
                text=decode(outputs["sentences"][sequence, 0]),
                finish_reason=decode(outputs["finish_reason"][sequence, 0]),
                prompt_tokens=int(outputs["prompt_tokens"][sequence, 0]),
                completion_tokens=int(outputs["completion_tokens"][sequence, 0]),
                log_probs=(
                    None
                    if log_probs is None or lengths is None
                    else tuple(float(value) for value in log_probs[sequence, : int(lengths[sequence, 0])])
                ),
                top_logprobs=None if top is None else json.loads(decode(top[sequence, 0])),
            )
            for sequence in range(sequences)
        ]

    def stream(self, prompt: Prompt, **parameters: Any) -> Iterator[str | Completion]:
        """Send one prompt to the streaming model; yield text as it arrives, then the whole answer.

        Closing the iterator cancels the request.

        Args:
            prompt: as for `infer`.
            parameters: as for `infer`, for one sequence.

        Raises:
            as `infer`.
        """
        inputs = _inputs([prompt], parameters)
        name, streaming = self._model.name, f"{self._model.name}{wire.STREAM_SUFFIX}"
        if name.endswith(wire.STREAM_SUFFIX) and not self._model.server_has(streaming):
            streaming = name  # the name is that of a streaming model already
        text = ""
        with TritonModel(self._model.address, streaming, self._timeout) as model:
            try:
                for response in model.stream(inputs):
                    piece = response.get("sentences", "")
                    text += piece
                    if piece:
                        yield piece
                    if "finish_reason" in response:
                        yield _last(response, text)
                        return
            except QueryError as error:
                if text or isinstance(error, RequestTooSlowError) or self._model.server_has(streaming):
                    raise
                raise QueryError(
                    f"The model {name!r} has no streaming model at {self._model.address}: build it without "
                    "--no-stream, or ask without --stream (in Python, call infer)."
                ) from None
        raise ServerFailedError("The server's stream ended before the answer did.")

    def infer_arrays(
        self, prompts: Sequence[Prompt], outputs: Sequence[str], *, with_lengths: bool = False, **parameters: Any
    ) -> dict[str, NDArray[Any]]:
        """Send one request and return its output tensors, batch dimension first.

        Args:
            prompts: as for `infer`.
            outputs: names of outputs. `log_probs` FP32 (N, L), padded with 0, and `top_logprobs` BYTES (N, 1), JSON,
                are added if the parameters request them.
            with_lengths: whether to add `log_probs_lengths` INT64 (N, 1) to `log_probs`.
            parameters: as for `infer`.

        Raises:
            as `infer`.
        """
        inputs = _inputs(prompts, parameters)
        wanted = list(outputs)
        if np.any(inputs.get("compute_logprob", False)):
            wanted += ["log_probs", "log_probs_lengths"] if with_lengths else ["log_probs"]
        if np.any(inputs.get("n_top_logprobs", 0)):
            wanted.append("top_logprobs")
        return self._model.infer(inputs, wanted)


def _last(response: Response, text: str) -> Completion:
    """Return the whole answer of a stream, given its last response and full text."""
    log_probs = response.get("log_probs")
    top = response.get("top_logprobs")
    return Completion(
        text=text,
        finish_reason=response["finish_reason"],
        prompt_tokens=int(response["prompt_tokens"]),
        completion_tokens=int(response["completion_tokens"]),
        log_probs=None if log_probs is None else tuple(np.ravel(log_probs).tolist()),
        top_logprobs=None if top is None else json.loads(top),
    )


def _inputs(prompts: Sequence[Prompt], parameters: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    if not prompts:
        raise QueryError("There is no prompt; send at least one.")
    given = {name: value for name, value in parameters.items() if value is not None}
    return {
        "prompts": column([_encode_prompt(prompt) for prompt in prompts], np.object_),
        **{name: _tensor(name, value, len(prompts)) for name, value in given.items()},
    }


def _tensor(name: str, value: Any, sequences: int) -> NDArray[Any]:
    if name not in _PARAMETERS:
        raise QueryError(f"There is no parameter {name!r}; there are {', '.join(_PARAMETERS)}.")
    tensor = _PARAMETERS[name]
    if tensor is wire.IMAGES:
        return images.tensor(value, sequences)
    try:
        return column([tensor.pack(each) for each in _values(tensor, value, sequences)], _DTYPES[tensor.datatype])
    except wire.BadRequestError as error:
        raise QueryError(str(error)) from None


def _values(tensor: wire.Input, value: Any, sequences: int) -> list[Any]:
    """Return one value per sequence, from one value for all of them or a list."""
    if isinstance(tensor, wire.Json):
        values = [value] * sequences if tensor.is_document(value) else value
        valid = isinstance(values, list | tuple) and len(values) == sequences and all(map(tensor.is_document, values))
        if not valid:
            raise QueryError(
                f"{tensor.name} is {value!r}; give {tensor.form}, or one such {tensor.form.split()[1]} per prompt "
                f"({sequences})."
            )
        return list(values)
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * sequences
    if len(values) != sequences:
        raise QueryError(
            f"{tensor.name} has {len(values)} values for {sequences} prompts; give one value, or one per prompt."
        )
    return values


def _encode_prompt(prompt: Prompt) -> bytes:
    return utf8("The prompt", prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False))
