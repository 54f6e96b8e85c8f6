"""A connection to one model of a Triton server, over HTTP or gRPC.

tritonclient is imported when a connection is made, because the import takes longer than the rest of `trgen --help`.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trition_repo_gen.errors import QueryError
from trition_repo_gen.runtime.common import wire

from . import streaming
from .address import ServerAddress
from .errors import RequestTooSlowError, ServerFailedError, from_triton
from .ports import wrong_port
from .proxies import grpc_options
from .text import utf8

_POLL_INTERVAL = 0.1
_PROBE_SECONDS = 5.0
_MOST_SECONDS = 10**9
"""Thirty years; sockets accept no more than nine times that."""
_LOOK_SECONDS = 2.0
_STREAMING_KINDS = {wire.STREAM_SUFFIX: "streaming model", wire.TRTLLM_SUFFIX: "TensorRT-LLM-shaped alias"}
_DECOUPLED = "decoupled transaction policy"
_METHOD = "Method Not Allowed"
_UNEXPECTED_INPUT = re.compile(r"unexpected inference input '(?P<name>[^']*)'")
_DATATYPES = {"O": "BYTES", "i": "INT64", "f": "FP32", "b": "BOOL"}
"""Triton's datatypes by the kind of dtype; this package creates object, int64, float32 and bool arrays only."""


class TritonModel:
    """A connection to one model; not thread-safe, because tritonclient's is not.

    Args:
        address: where the server is.
        name: the model's name.
        timeout: seconds to wait for an answer.

    Raises:
        QueryError: the name is not valid Unicode, or the timeout is not a valid duration.
    """

    def __init__(self, address: ServerAddress, name: str, timeout: float) -> None:
        utf8("The model's name", name)
        _check_seconds(timeout)
        self.address = address
        self.name = name
        self._timeout = timeout
        if address.grpc:
            import tritonclient.grpc as tritonclient

            options: dict[str, Any] = {"channel_args": grpc_options(address.host)}
        else:
            import tritonclient.http as tritonclient

            options = {"connection_timeout": _PROBE_SECONDS, "network_timeout": timeout}
        self._tritonclient = tritonclient
        self._connection = tritonclient.InferenceServerClient(address.netloc, ssl=address.encrypted, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def wait_ready(self, seconds: float) -> None:
        """Wait until the server and the model answer.

        Raises:
            QueryError: the server has no model of this name, something else listens at the address, or `seconds` is not
                a valid duration.
            ServerFailedError: the time is over; the text says what did not answer.
        """
        _check_seconds(seconds)
        deadline = time.monotonic() + seconds
        looked = False
        while (missing := self._first_missing()) is not None:
            if not looked:
                self._check_port()
                looked = True
            if time.monotonic() >= deadline:
                raise ServerFailedError(f"Waited {seconds:g} s for {missing}.")
            time.sleep(_POLL_INTERVAL)

    def infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Send one request and return the outputs of the response.

        Args:
            inputs: arrays of object (bytes), int64, float32 or bool, batch dimension first.
            outputs: names of the requested outputs.

        Raises:
            QueryError: the server refused the request.
            ServerFailedError: the server failed, or did not answer in time.
        """
        tensors = self._tensors(inputs)
        wanted = [self._tritonclient.InferRequestedOutput(name) for name in outputs]
        # A cancelled gRPC call ends the request in Triton. Over HTTP, Triton gets the timeout, so that it ends it too.
        options = {"client_timeout": self._timeout} if self.address.grpc else {"timeout": round(self._timeout * 1e6)}
        try:
            with self._translated():
                result = self._connection.infer(self.name, tensors, outputs=wanted, **options)
        except RequestTooSlowError:
            raise RequestTooSlowError(
                f"Waited {self._timeout:g} s for an answer of model {self.name} at {self.address}."
            ) from None
        except QueryError as error:
            raise self._explained(error) from None
        arrays = {name: result.as_numpy(name) for name in outputs}
        return {name: array for name, array in arrays.items() if array is not None}

    def stream(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[streaming.Response]:
        """Send one sequence and yield responses as they arrive; closing the iterator cancels the request.

        Args:
            inputs: as for `infer`, of shape (1, 1) each.

        Raises:
            as `infer`.
        """
        try:
            if self.address.grpc:
                yield from streaming.over_grpc(self.address, self.name, self._tensors(inputs), self._timeout)
            else:
                values = {name: array[0, 0] for name, array in inputs.items()}
                plain = {name: v.decode() if isinstance(v, bytes) else v.item() for name, v in values.items()}
                yield from streaming.over_http(self.address, self.name, plain, self._timeout)
        except QueryError as error:
            raise self._explained(error) from None

    def _tensors(self, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        tensors = []
        for name, array in inputs.items():
            tensor = self._tritonclient.InferInput(name, list(array.shape), _DATATYPES[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def server_has(self, name: str) -> bool:
        """Whether the server has a model of this name; True if it does not list its models."""
        held = self._held_models({"client_timeout": _PROBE_SECONDS} if self.address.grpc else {})
        return not held or name in held

    def _explained(self, error: QueryError) -> QueryError:
        """Return the error with advice where Triton's own message has none."""
        if _DECOUPLED in str(error):
            return QueryError(_streaming_only(self.name))
        if _METHOD in str(error) and (sentence := wrong_port(self.address, _LOOK_SECONDS)) is not None:
            return QueryError(sentence)  # Triton's port for metrics reports every model as ready
        if match := _UNEXPECTED_INPUT.search(str(error)):
            name, model = match["name"], self.name.removesuffix(wire.STREAM_SUFFIX)
            if name == wire.IMAGES.name:
                return QueryError(f"The model {model!r} takes no images; leave them out, or name a multimodal model.")
            return QueryError(f"The model {model!r} has no input {name!r}; it was not written by this trgen.")
        return error

    def _check_port(self) -> None:
        """Raise a QueryError if something other than the expected server listens at the address."""
        if (sentence := wrong_port(self.address, _LOOK_SECONDS)) is not None:
            raise QueryError(sentence)

    def _first_missing(self) -> str | None:
        """Return what does not answer yet, in words; None if everything does."""
        options = {"client_timeout": _PROBE_SECONDS} if self.address.grpc else {}
        try:
            with self._translated():
                if self._connection.is_model_ready(self.name, **options):
                    return None
        except QueryError as error:
            if isinstance(error, ServerFailedError):
                return f"a Triton server at {self.address} to answer ({error})"
        # The index also lists models that are not loaded yet.
        held = self._held_models(options)
        if held and self.name not in held:
            raise QueryError(
                f"The server at {self.address} has no model {self.name!r}; it has {', '.join(sorted(held))}."
            )
        reason = held.get(self.name)
        return f"model {self.name} at {self.address} to be ready{f' ({reason})' if reason else ''}"

    def _held_models(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return the reason why each model is not ready, by name; empty if the server does not list its models."""
        try:
            with self._translated():
                index = self._connection.get_model_repository_index(**options)
        except QueryError:
            return {}
        if self.address.grpc:
            return {model.name: model.reason for model in index.models}
        return {model["name"]: model.get("reason", "") for model in index}

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the exceptions of tritonclient into a QueryError."""
        from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            raise from_triton(error.status(), error.message() or "") from None
        except TimeoutError:
            raise RequestTooSlowError("no answer came in time") from None
        except HTTPConnectionClosed:
            raise ServerFailedError("The server closed the connection instead of answering.") from None
        except HTTPParseError:
            raise ServerFailedError(f"What listens at {self.address} does not speak HTTP.") from None
        except OSError as error:
            raise ServerFailedError(error.strerror or str(error) or type(error).__name__) from None


def _streaming_only(name: str) -> str:
    for suffix, what in _STREAMING_KINDS.items():
        if (plain := name.removesuffix(suffix)) not in (name, ""):
            return (
                f"{name!r} is the {what} of {plain!r}; name {plain!r}, and for text as it grows write --stream "
                "(in Python, call stream)."
            )
    return f"The model {name!r} only streams its answers; name one that was written by trgen."


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds <= _MOST_SECONDS:  # false for nan, too
        raise QueryError(f"The time to wait is {seconds} s; it has to be between 0 and {_MOST_SECONDS} s.")


def column(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the values as an array of shape (N, 1)."""
    return np.array(values, dtype=dtype).reshape(len(values), 1)
