"""One model of a Triton server, over HTTP or gRPC alike, with errors as sentences.

tritonclient is imported when a connection is made: it takes longer than the rest of a command line's start.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trition_repo_gen.errors import QueryError

from . import streaming
from .address import ServerAddress
from .errors import RequestTooSlowError, ServerFailedError, from_triton
from .text import utf8

_POLL_INTERVAL = 0.1
_PROBE_SECONDS = 5.0
_MOST_SECONDS = 10**9
"""Thirty years; a socket takes no more than nine times that."""
_DATATYPES = {"O": "BYTES", "i": "INT64", "f": "FP32", "b": "BOOL"}
"""By the kind of the array's dtype; the arrays are made here, as object, int64, float32 and bool."""


class TritonModel:
    """A connection to one model. Not for several threads at once: tritonclient's connections are not.

    Args:
        address: where the server is.
        name: the model's name.
        timeout: seconds that an answer may take.

    Raises:
        QueryError: the name is not valid Unicode, or the timeout is no number of seconds.
    """

    def __init__(self, address: ServerAddress, name: str, timeout: float) -> None:
        utf8("The model's name", name)
        _check_seconds(timeout)
        self.address = address
        self.name = name
        self._timeout = timeout
        if address.grpc:
            import tritonclient.grpc as tritonclient

            options: dict[str, Any] = {}
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
        """Wait until the server and the model answer; return at once if they do.

        Raises:
            QueryError: the server has no model of this name, or `seconds` is no number of seconds.
            ServerFailedError: time ran out; the text says what was waited for.
        """
        _check_seconds(seconds)
        deadline = time.monotonic() + seconds
        while (missing := self._first_missing()) is not None:
            if time.monotonic() >= deadline:
                raise ServerFailedError(f"Waited {seconds:g} s for {missing}.")
            time.sleep(_POLL_INTERVAL)

    def infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Send one request and return the outputs that came.

        Args:
            inputs: arrays of object (bytes), int64, float32 or bool, the batch's dimension first.
            outputs: names of the wanted outputs.

        Raises:
            QueryError: the server refused the request.
            ServerFailedError: it failed, or did not answer in time.
        """
        tensors = self._tensors(inputs)
        wanted = [self._tritonclient.InferRequestedOutput(name) for name in outputs]
        # Triton hears of a gRPC call that is given up. Over HTTP it is told when, so that nothing runs on for nobody.
        options = {"client_timeout": self._timeout} if self.address.grpc else {"timeout": round(self._timeout * 1e6)}
        try:
            with self._translated():
                result = self._connection.infer(self.name, tensors, outputs=wanted, **options)
        except RequestTooSlowError:
            raise RequestTooSlowError(
                f"Waited {self._timeout:g} s for an answer of model {self.name} at {self.address}."
            ) from None
        arrays = {name: result.as_numpy(name) for name in outputs}
        return {name: array for name, array in arrays.items() if array is not None}

    def stream(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[streaming.Response]:
        """Send one sequence and yield responses as they come; closing the iterator cancels the request.

        Args:
            inputs: as for `infer`, of shape (1, 1) each.

        Raises:
            as `infer`.
        """
        if self.address.grpc:
            return streaming.over_grpc(self.address, self.name, self._tensors(inputs), self._timeout)
        values = {name: array[0, 0] for name, array in inputs.items()}
        plain = {name: v.decode() if isinstance(v, bytes) else v.item() for name, v in values.items()}
        return streaming.over_http(self.address, self.name, plain, self._timeout)

    def _tensors(self, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        tensors = []
        for name, array in inputs.items():
            tensor = self._tritonclient.InferInput(name, list(array.shape), _DATATYPES[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def _first_missing(self) -> str | None:
        """Return what does not answer, in words, or None."""
        options = {"client_timeout": _PROBE_SECONDS} if self.address.grpc else {}
        try:
            with self._translated():
                if self._connection.is_model_ready(self.name, **options):
                    return None
        except QueryError as error:
            if isinstance(error, ServerFailedError):
                return f"a Triton server at {self.address} to answer ({error})"
        # A server's index has the models that are not loaded yet, too.
        held = self._held_models(options)
        if held and self.name not in held:
            raise QueryError(
                f"The server at {self.address} has no model {self.name!r}; it has {', '.join(sorted(held))}."
            )
        reason = held.get(self.name)
        return f"model {self.name} at {self.address} to be ready{f' ({reason})' if reason else ''}"

    def _held_models(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return why each of the server's models is not ready, by name; nothing when the server does not tell."""
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
        """Turn what tritonclient raises into a QueryError."""
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


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds <= _MOST_SECONDS:  # nan is not, either
        raise QueryError(f"The time to wait is {seconds} s; it has to be between 0 and {_MOST_SECONDS} s.")


def column(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the values as an array of shape (N, 1)."""
    return np.array(values, dtype=dtype).reshape(len(values), 1)
