"""Text as the wire takes it."""

from trition_repo_gen.errors import QueryError


def utf8(what: str, text: str) -> bytes:
    """Return the text as UTF-8.

    Args:
        what: what it is, as the error's sentence begins.
        text: may have half a character where it was cut, or spelt so in JSON; and Python's stand-in for a byte of the
            command line that is not UTF-8.

    Raises:
        QueryError: it has one of these.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"{what} has {text[error.start]!r}, which is not valid Unicode; send text that is.") from None


def decode(value: bytes) -> str:
    """Return text of the wire; a token sequence may end in the middle of a character."""
    return value.decode(errors="replace")
