"""What can go wrong between a client and the server."""

import re

from trition_repo_gen.errors import QueryError

_REQUEST_ID = re.compile(r"^(\[[^\]]*request id: [^\]]*\] )?")
_USERS_HTTP = range(400, 500)
_USERS_GRPC = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "OUT_OF_RANGE", "ALREADY_EXISTS", "PERMISSION_DENIED")


class ServerFailedError(QueryError):
    """The server is not there, took too long, or failed; the request itself may be good."""


class RequestTooSlowError(ServerFailedError):
    """No answer came in time."""


def from_triton(status: str | None, message: str) -> QueryError:
    """Return the error for what Triton answered.

    Args:
        status: an HTTP status code, or a gRPC one such as `StatusCode.INTERNAL`; None when none came.
        message: Triton's sentence.
    """
    text = _REQUEST_ID.sub("", " ".join(message.split()), count=1)
    status = (status or "").removeprefix("StatusCode.")
    if status == "DEADLINE_EXCEEDED":
        return RequestTooSlowError(text)
    if (status.isdigit() and int(status) in _USERS_HTTP) or status in _USERS_GRPC:
        return QueryError(f"The server refused the request: {text}")
    return ServerFailedError(f"The server failed: {text}" if text else "The server failed and did not say why.")
