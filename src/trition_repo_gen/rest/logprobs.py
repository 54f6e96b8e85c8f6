"""Writes log-probabilities in OpenAI's two shapes."""

from typing import Any

from .answers import Finish

_IMPOSSIBLE = -9999.0
"""OpenAI's value for minus infinity, which JSON cannot express."""


def completion_logprobs(text: str, ending: Finish) -> dict[str, Any] | None:
    """Return the `logprobs` of a choice of `/v1/completions`, or None if they were not requested.

    Args:
        text: the whole answer, into which `text_offset` points; with `echo` it begins with the prompt.
        ending: the result of the sequence.
    """
    if ending.log_probs is None or ending.tokens is None:
        return None
    unknown = len(ending.tokens) - len(ending.log_probs)  # the first token of an echoed prompt has none
    top = ending.top_logprobs
    return {
        "tokens": ending.tokens,
        "token_logprobs": [None] * unknown + [_finite(value) for value in ending.log_probs],
        "top_logprobs": None
        if top is None
        else [None] * (len(ending.tokens) - len(top)) + [_all_finite(t) for t in top],
        "text_offset": _offsets(text, ending.tokens),
    }


def chat_logprobs(ending: Finish) -> dict[str, Any] | None:
    """Return the `logprobs` of a choice of `/v1/chat/completions`, or None if they were not requested."""
    if ending.log_probs is None or ending.tokens is None:
        return None
    tops = ending.top_logprobs or [{} for _ in ending.tokens]
    content = [
        _token(token, value) | {"top_logprobs": [_token(*each) for each in top.items()]}
        for token, value, top in zip(ending.tokens, ending.log_probs, tops, strict=False)
    ]
    return {"content": content, "refusal": None}


def _token(token: str, log_prob: float) -> dict[str, Any]:
    # A token that is part of a character is spelt in the vocabulary's own alphabet, not in its bytes. Only an ASCII
    # spelling is certain to be the bytes. OpenAI: "Can be null if there is no bytes representation".
    return {"token": token, "logprob": _finite(log_prob), "bytes": list(token.encode()) if token.isascii() else None}


def _all_finite(top: dict[str, float]) -> dict[str, float]:
    return {token: _finite(value) for token, value in top.items()}


def _finite(log_prob: float) -> float:
    return max(log_prob, _IMPOSSIBLE)


def _offsets(text: str, tokens: list[str]) -> list[int]:
    """Return where each token begins in the text, in characters.

    Special tokens and parts of characters do not occur in the text as they are spelt; each gets the end of the last
    token that does.
    """
    offsets = []
    end = 0
    for token in tokens:
        offsets.append(end)
        if text.startswith(token, end):
            end += len(token)
    return offsets
