"""How a request that cannot be read is answered."""

import traceback

from ..common.protocol import ErrorKind
from ..common.wire import BadRequestError


def why_rejected(error: Exception) -> tuple[ErrorKind, str]:
    """Return the error code and the sentence for a request that raised `error` while it was read.

    Callers catch everything: an exception out of `execute` would fail the whole batch, of which others may be running.
    """
    if isinstance(error, BadRequestError):
        return "INVALID_ARG", str(error)
    traceback.print_exception(error)
    return "INTERNAL", f"The request cannot be read: {type(error).__name__}: {error}."
