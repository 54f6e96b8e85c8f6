"""What a user can do wrong. The command line prints the sentence and exits with code 2; anything else is a bug."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Base of all mistakes that a user can correct. The text is one sentence that says what to write instead."""


class CheckpointError(UserError):
    """The checkpoint is missing, incomplete or of another kind."""


class LayoutError(UserError):
    """The checkpoint cannot be sharded in the layout that was asked for."""


class RepositoryError(UserError):
    """The model repository cannot be written or read."""


class ServerError(UserError):
    """tritonserver cannot be found or started."""


class QueryError(UserError):
    """The server did not answer, or answered with an error."""


class InstallError(UserError):
    """An environment cannot be installed."""


@contextmanager
def system_errors(kind: type[UserError], what: str, instead: str) -> Iterator[None]:
    """Make one sentence of an OSError within the block: missing permissions, a full disk, links in a circle.

    Args:
        kind: class of the error that is raised for it.
        what: what cannot be done, as the beginning of the sentence.
        instead: what to do about it, as its end.

    Raises:
        UserError: of that class, where there was an OSError.
    """
    try:
        yield
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        raise kind(f"{what}: {error.strerror or error}{where}; {instead}.") from error
