"""What a client can do wrong."""

import traceback

from ..common.protocol import ErrorKind


class BadRequestError(ValueError):
    """The client's mistake; the text is one sentence."""


def why_rejected(error: Exception) -> tuple[ErrorKind, str]:
    """Return how to refuse a request that raised `error` while it was read.

    For whoever reads requests to catch everything: raising would fail the whole batch, of which others are under way.
    """
    if isinstance(error, BadRequestError):
        return "INVALID_ARG", str(error)
    traceback.print_exception(error)
    return "INTERNAL", f"The request cannot be read: {type(error).__name__}: {error}."
