"""Writes log-probabilities in OpenAI's two shapes."""

import codecs
from typing import Any

from trition_repo_gen.runtime.common.wire import bytes_of_spelling

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
    return {"token": token, "logprob": _finite(log_prob), "bytes": list(bytes_of_spelling(token))}


def _all_finite(top: dict[str, float]) -> dict[str, float]:
    return {token: _finite(value) for token, value in top.items()}


def _finite(log_prob: float) -> float:
    return max(log_prob, _IMPOSSIBLE)


def _offsets(text: str, tokens: list[str]) -> list[int]:
    """Return where each token begins in the text, in characters.

    A part of a character begins where the character does; a special token that the text does not have, where the token
    before it has ended.
    """
    offsets = []
    end = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        offsets.append(end)
        state = decoder.getstate()
        piece = decoder.decode(bytes_of_spelling(token))
        if text.startswith(piece, end):
            end += len(piece)
        else:
            decoder.setstate(state)
    return offsets
