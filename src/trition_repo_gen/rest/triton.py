"""Calls Triton over gRPC, one sequence per call, with plain Python values instead of numpy arrays."""

import array
import asyncio
import struct
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .errors import ApiError, from_triton, unreachable

Value = str | bool | int | float
SequenceInputs = Mapping[str, Value]
"""Inputs of one sequence by name: str is sent as BYTES, bool as BOOL, int as INT64 and float as FP32."""
Outputs = dict[str, Any]
"""Outputs of one sequence by name: text of BYTES, an int of INT64, a list of floats of FP32."""

_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Triton is on this machine or in its cluster; the environment's proxy is for other hosts.
    ("grpc.enable_http_proxy", 0),
    # Triton does not listen while it loads models. With gRPC's default back-off, this service could take two minutes
    # to notice that it does.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, the limit of one attempt to connect: a busy or distant host needs longer than the back-off.
    ("grpc.min_reconnect_backoff_ms", 5000),
)
_CONNECT_SECONDS = 5.0
"""Seconds that a request waits for the connection before it is refused."""
_PROBE_SECONDS = 1.0
"""Seconds that a health check waits for the connection."""
# Without it, a stream reports errors as text without a code.
_STREAM_METADATA = (("triton_grpc_error", "true"),)


class Triton:
    """A connection to one server; create and use it within one event loop.

    Args:
        url: HOST:PORT of its gRPC endpoint.
    """

    def __init__(self, url: str) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def connect(self, seconds: float | None = None) -> None:
        """Wait until Triton is connected; without this, a call fails with the first attempt to connect.

        Args:
            seconds: at most; `_CONNECT_SECONDS` if it is more or None.

        Raises:
            ApiError: there is no connection within that time.
        """
        patience = _CONNECT_SECONDS if seconds is None else min(seconds, _CONNECT_SECONDS)
        try:
            async with asyncio.timeout(patience):
                while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
        except TimeoutError:
            raise unreachable() from None

    async def is_ready(self, seconds: float) -> bool:
        """Return whether the server says that it is ready.

        Raises:
            ApiError: it does not answer.
        """
        await self.connect(min(seconds, _PROBE_SECONDS))
        answer = await self._call("ServerReady", service_pb2.ServerReadyRequest(), seconds)
        return bool(answer.ready)

    async def ready_models(self, seconds: float) -> list[str]:
        """Return the names of the models that are ready, sorted.

        Raises:
            ApiError: the server does not answer.
        """
        answer = await self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True), seconds)
        return sorted({model.name for model in answer.models})

    async def config(self, model: str, seconds: float) -> Any:
        """Return a model's configuration, Triton's `ModelConfig` message.

        Raises:
            ApiError: there is no such model, or the server does not answer.
        """
        return (await self._call("ModelConfig", service_pb2.ModelConfigRequest(name=model), seconds)).config

    async def infer(
        self, model: str, sequence: SequenceInputs, outputs: Iterable[str], seconds: float | None = None
    ) -> Outputs:
        """Send one sequence and return its outputs. Cancelling the task cancels the call.

        Raises:
            ApiError: a text is not valid Unicode; or Triton refused the request, failed, or did not answer within
                `seconds`.
        """
        return _outputs(await self._call("ModelInfer", _request(model, sequence, outputs), seconds))

    async def stream(
        self, model: str, sequence: SequenceInputs, outputs: Iterable[str], seconds: float | None = None
    ) -> AsyncGenerator[Outputs]:
        """Send one sequence to a decoupled model and yield the outputs of each response.

        Closing the iterator, or cancelling the task, cancels the call.

        Raises:
            as `infer`.
        """
        await self.connect(seconds)
        call = self._stub.ModelStreamInfer(
            [_request(model, sequence, outputs)], metadata=_STREAM_METADATA, timeout=seconds
        )
        try:
            async for response in call:
                if response.error_message:
                    raise from_triton(None, response.error_message)
                if response.infer_response.outputs:
                    yield _outputs(response.infer_response)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        finally:
            call.cancel()  # no effect if the call has ended

    async def _call(self, method: str, request: Any, seconds: float | None) -> Any:
        await self.connect(seconds)
        try:
            return await getattr(self._stub, method)(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None


def _translated(error: grpc.aio.AioRpcError) -> ApiError:
    return from_triton(error.code(), error.details())


def _request(model: str, sequence: SequenceInputs, outputs: Iterable[str]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in sequence.items():
        tensor = request.inputs.add(name=name, shape=(1, 1))
        if isinstance(value, str):
            tensor.datatype = "BYTES"
            tensor.contents.bytes_contents.append(_encoded(value))
        elif isinstance(value, bool):
            tensor.datatype = "BOOL"
            tensor.contents.bool_contents.append(value)
        elif isinstance(value, int):
            tensor.datatype = "INT64"
            tensor.contents.int64_contents.append(value)
        else:
            tensor.datatype = "FP32"
            tensor.contents.fp32_contents.append(value)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        # JSON can contain it, and JavaScript creates it when it cuts a text within an emoji.
        half = text[error.start]
        raise ApiError(400, f"The text has {half!r}, which is half a character; send valid Unicode.") from None


def _outputs(response: Any) -> Outputs:
    return {
        tensor.name: _READERS[tensor.datatype](raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _text(raw: bytes) -> str:
    # A BYTES tensor has 4 bytes of length before each text; one sequence has one text.
    return raw[4:].decode(errors="replace")


def _integer(raw: bytes) -> int:
    value: int = struct.unpack_from("<q", raw)[0]
    return value


def _numbers(raw: bytes) -> list[float]:
    return array.array("f", raw).tolist()


_READERS: dict[str, Any] = {"BYTES": _text, "INT64": _integer, "FP32": _numbers}
