"""How a token is spelt where tokens are listed one by one. Standard library only."""

import re


def spell_bytes(data: bytes, *, always: bool = False) -> str:
    r"""Return how a token of these bytes is spelt in `tokens` and `top_logprobs`.

    It is the token's text; one that is no text by itself, such as a part of a character, is spelt `bytes:\xe7\x8c`,
    as OpenAI's API does.

    Args:
        data: the token's bytes.
        always: whether to spell text in bytes as well, because another token has the same.
    """
    try:
        text = data.decode()
        is_text = not always and _SPELT_BYTES.fullmatch(text) is None
    except UnicodeDecodeError:
        is_text = False
    return text if is_text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def bytes_of_spelling(spelling: str) -> bytes:
    """Return the bytes of a token that `spell_bytes` spelt."""
    if _SPELT_BYTES.fullmatch(spelling):
        return bytes.fromhex(spelling.removeprefix("bytes:").replace("\\x", ""))
    return spelling.encode()


_SPELT_BYTES = re.compile(r"bytes:(?:\\x[0-9a-f]{2})+")
