"""Reads response streams of decoupled models: server-sent events over HTTP, a bidirectional stream over gRPC."""

import contextlib
import http.client
import json
import queue
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .address import ServerAddress
from .errors import RequestTooSlowError, ServerFailedError, from_triton
from .proxies import grpc_options

Response = dict[str, Any]
"""The outputs of a response by name: a text, a number, or a list of several."""

_EVENT = b"data:"


def over_http(address: ServerAddress, model: str, inputs: Mapping[str, Any], timeout: float) -> Iterator[Response]:
    """Send one sequence to `generate_stream`; yield responses as they arrive. Closing the iterator cancels the request.

    Args:
        inputs: a JSON value per input.
        timeout: seconds to wait for the next response.

    Raises:
        QueryError: the server refused the request.
        ServerFailedError: the server failed, or did not answer in time.
    """
    kind = http.client.HTTPSConnection if address.encrypted else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout)
    try:
        connection.request("POST", f"/v2/models/{model}/generate_stream", json.dumps(inputs).encode())
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise from_triton(str(response.status), _error(response.read()))
        for line in response:
            if not line.startswith(_EVENT):
                continue
            event = json.loads(line[len(_EVENT) :])
            if "error" in event:
                raise from_triton(None, event["error"])
            yield event
    except TimeoutError:
        raise RequestTooSlowError(f"Waited {timeout:g} s for the next text of model {model} at {address}.") from None
    except http.client.HTTPException:
        raise ServerFailedError("The server closed the connection instead of answering.") from None
    except OSError as error:
        raise ServerFailedError(error.strerror or str(error) or type(error).__name__) from None
    finally:
        connection.close()


def over_grpc(address: ServerAddress, model: str, tensors: list[Any], timeout: float) -> Iterator[Response]:
    """Send one sequence over gRPC, as `over_http` does, given tritonclient's input tensors of shape (1, 1)."""
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    connection = tritonclient.grpc.InferenceServerClient(
        address.netloc, ssl=address.encrypted, channel_args=grpc_options(address.host)
    )
    try:
        # Without the header, Triton reports errors as text without a code.
        connection.start_stream(
            lambda result, error: answers.put(error or result), headers={"triton_grpc_error": "true"}
        )
        with contextlib.suppress(InferenceServerException):  # a stream that failed reports the reason as an answer
            connection.async_stream_infer(model, tensors, enable_empty_final_response=True)
        while True:
            try:
                answer = answers.get(timeout=timeout)
            except queue.Empty:
                raise RequestTooSlowError(
                    f"Waited {timeout:g} s for the next text of model {model} at {address}."
                ) from None
            if isinstance(answer, InferenceServerException):
                raise from_triton(answer.status(), answer.message() or "")
            response = answer.get_response()
            if response.outputs:
                yield {output.name: _plain(answer.as_numpy(output.name)) for output in response.outputs}
            if response.parameters["triton_final_response"].bool_param:
                return
    finally:
        connection.stop_stream(cancel_requests=True)
        connection.close()


def _error(body: bytes) -> Any:
    """Return the error of a response that is not 200; Triton writes it as an event once the model has refused."""
    text = body.strip().removeprefix(_EVENT)
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")


def _plain(array: NDArray[Any]) -> Any:
    values = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in np.ravel(array).tolist()]
    return values[0] if len(values) == 1 else values
