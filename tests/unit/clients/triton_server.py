"""Helpers of the clients' and the REST service's tests: Triton's gRPC endpoint with one small model."""

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

_INPUTS = ("prompts", "apply_chat_template")
_OUTPUTS = ("sentences", "finish_reason", "prompt_tokens", "completion_tokens")


class EchoModel(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The model `echo` and its streaming model: they answer with the prompt, and remember what they were asked."""

    def __init__(self) -> None:
        self.url = ""
        """HOST:PORT."""
        self.requests: list[Any] = []
        """Each `ModelInferRequest`."""

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        models = [service_pb2.RepositoryIndexResponse.ModelIndex(name=name) for name in ("echo", "echo_stream")]
        return service_pb2.RepositoryIndexResponse(models=models)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        config = model_config_pb2.ModelConfig(name=request.name)
        config.model_transaction_policy.decoupled = request.name.endswith("_stream")
        config.input.extend(model_config_pb2.ModelInput(name=name) for name in _INPUTS)
        config.output.extend(model_config_pb2.ModelOutput(name=name) for name in _OUTPUTS)
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        contents = iter(request.raw_input_contents)
        prompt = next(
            tensor.contents.bytes_contents[0] if tensor.HasField("contents") else next(contents)[4:]
            for tensor in request.inputs
            if tensor.name == "prompts"
        )
        texts = {"sentences": prompt, "finish_reason": b"stop"}
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name in [output.name for output in request.outputs] or _OUTPUTS:
            kind = "BYTES" if name in texts else "INT64"
            response.outputs.add(name=name, datatype=kind, shape=(1, 1))
            text = texts.get(name)
            raw = struct.pack("<q", 1) if text is None else struct.pack("<I", len(text)) + text
            response.raw_output_contents.append(raw)
        return response

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))


@contextmanager
def echo_server(port: int = 0) -> Iterator[EchoModel]:
    """Listen while the block runs, at a free port or at `port`."""
    model = EchoModel()
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    model.url = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield model
    finally:
        server.stop(None).wait()
