"""Encodes and decodes text of the wire."""

from trition_repo_gen.errors import QueryError


def utf8(what: str, text: str) -> bytes:
    """Return the text as UTF-8.

    Args:
        what: the subject of the error message.
        text: any text. Half of a surrogate pair, as in text that was cut within an emoji, cannot be encoded, nor can
            bytes of the command line that are not UTF-8.

    Raises:
        QueryError: the text cannot be encoded.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"{what} has {text[error.start]!r}, which is not valid Unicode; send text that is.") from None


def decode(value: bytes) -> str:
    """Decode text of the wire; an answer may end within a character."""
    return value.decode(errors="replace")
