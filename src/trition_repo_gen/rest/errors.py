"""Defines errors in OpenAI's shape and translates Triton's errors into them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc
from fastapi import HTTPException
from fastapi.responses import JSONResponse

from trition_repo_gen.runtime.common.wire import BUSY_MARK, CONTEXT_LENGTH, rename_inputs

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 503,
    grpc.StatusCode.CANCELLED: 503,
}
"""HTTP statuses by gRPC status code; any other code is a 500."""

UNSUPPORTED = "unsupported"
"""The type of a validation error whose context names the field at fault."""
TIMEOUT = "timeout"
"""The code of an error that means only that an answer took too long."""
TOO_LONG = "context_length_exceeded"
"""The code of an error of a request that is longer than the model's sequences."""
BUSY = "server_busy"
"""The code of a refusal because the queue is full: the model is healthy."""
_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
# The rest of too large a body is not read, so the connection cannot be reused.
_HEADERS = {413: {"Connection": "close"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}


class ApiError(HTTPException):
    """An error that is the response to a request.

    Args:
        status: the HTTP status.
        message: one sentence for the client.
        param: the field at fault.
        code: OpenAI's name of the error, if programs look for one.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message, _HEADERS.get(status))
        self.param = param
        self.code = code

    def for_fields(self, fields: Mapping[str, str]) -> Self:
        """Return the error with the names of a body's fields in place of those of the tensors.

        Args:
            fields: names of fields by those of tensors.
        """
        if self.status_code != 400 or self.param is not None:
            return self
        message, param = rename_inputs(self.detail, fields)
        return type(self)(self.status_code, message, param=param, code=self.code)

    def body(self) -> dict[str, Any]:
        """Return the JSON document in OpenAI's shape."""
        kind = _TYPES.get(self.status_code, "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def unknown_model(name: str) -> ApiError:
    """Return the error for a model that Triton does not have."""
    return ApiError(404, f"The model {name!r} does not exist.", param="model", code="model_not_found")


def unreachable() -> ApiError:
    """Return the error for a Triton that cannot be connected."""
    return ApiError(503, "Triton does not answer; try again later.")


def from_triton(code: grpc.StatusCode | None, message: str | None) -> ApiError:
    """Return the error for a failed gRPC call to Triton."""
    text = _REQUEST_ID.sub("", " ".join((message or "").split()), count=1)
    status = 500 if code is None else _STATUSES.get(code, 500)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ApiError(status, "Triton did not answer in time; try again later.", code=TIMEOUT)
    if text.endswith(BUSY_MARK):
        return ApiError(503, text.removesuffix(BUSY_MARK).rstrip(), code=BUSY)
    if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in text.lower():
        return unreachable()
    code_of_mistake = TOO_LONG if status == 400 and CONTEXT_LENGTH in text else None
    return ApiError(status, text or "Triton failed and did not say why.", code=code_of_mistake)


def from_validation(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """Return the error for a request body that pydantic refused; one of its mistakes is reported."""
    # For a value of a union type, the alternative that matches best has the longest path.
    error = max(errors, key=lambda each: len(each["loc"]))
    path = list(error["loc"])[1:]  # the first is "body"
    if error["type"] == UNSUPPORTED:
        return ApiError(400, f"{error['msg']}.", param=error["ctx"]["name"])
    if error["type"] == "json_invalid":
        return ApiError(400, "The request's body is not JSON.")
    if not path:
        return ApiError(400, "The request's body has to be a JSON object, sent as application/json.")
    if error["type"] == "missing":
        param = ".".join(map(str, [*_real(path[:-1], body), path[-1]]))
        return ApiError(400, f"You must provide {param}.", param=param)
    param = ".".join(map(str, _real(path, body) or path[:1]))
    return ApiError(400, f"Invalid {param}: {error['msg']}.", param=param)


def _real(path: list[Any], body: Any) -> list[Any]:
    """Return the path without the names of union alternatives, which pydantic inserts."""
    real = []
    for step in path:
        try:
            body = body[step]
        except (TypeError, KeyError, IndexError):
            continue
        real.append(step)
    return real
