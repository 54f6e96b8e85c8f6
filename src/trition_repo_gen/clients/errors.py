"""Defines the errors of a query and translates Triton's errors into them."""

import re
from collections.abc import Mapping
from typing import Any

from trition_repo_gen.errors import QueryError

_REQUEST_ID = re.compile(r"^(\[[^\]]*request id: [^\]]*\] )?")
_USERS_HTTP = range(400, 500)
_USERS_GRPC = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "OUT_OF_RANGE", "ALREADY_EXISTS", "PERMISSION_DENIED")


class ServerFailedError(QueryError):
    """The server is unreachable, too slow, or failed; the request itself may be valid."""


class RequestTooSlowError(ServerFailedError):
    """The server did not answer in time."""


def from_triton(status: str | None, message: Any) -> QueryError:
    """Return the error for an error response.

    Args:
        status: an HTTP status code, or a gRPC one such as `StatusCode.INTERNAL`; None if there was none.
        message: Triton's sentence; another server may have sent anything, OpenAI's kind an object with a `message`.
    """
    if isinstance(message, Mapping):
        message = message.get("message")
    message = "" if message is None else str(message)
    text = _REQUEST_ID.sub("", " ".join(message.split()), count=1)
    status = (status or "").removeprefix("StatusCode.")
    if status == "DEADLINE_EXCEEDED":
        return RequestTooSlowError(text)
    if (status.isdigit() and int(status) in _USERS_HTTP) or status in _USERS_GRPC:
        return QueryError(f"The server refused the request: {text}")
    return ServerFailedError(f"The server failed: {text}" if text else "The server failed and did not say why.")
