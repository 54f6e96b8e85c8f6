"""From the answers of a request's sequences to its output tensors."""

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.protocol import Answer, SequenceRequest


def output_tensors(
    sequences: Sequence[SequenceRequest], answers: Sequence[Answer], wanted: Collection[str]
) -> list[tuple[str, NDArray[Any]]]:
    """Return (name, array) for every output that the client wants and the sequences have.

    Args:
        sequences: what was asked, one for each answer.
        answers: in the order of the sequences.
        wanted: output names that the client listed.

    Returns:
        `sentences` and `finish_reason` BYTES, `prompt_tokens` and `completion_tokens` INT64, each (N, 1); where a
        sequence asked for log-probabilities `log_probs` FP32 (N, longest), padded with 0, `log_probs_lengths` INT64 (N,
        1) and `tokens` BYTES (N, 1), a JSON list of how each token is spelt; where a sequence asked for the most likely
        tokens `top_logprobs` BYTES (N, 1), a JSON list with one object a
        token.
    """
    outputs: dict[str, NDArray[Any]] = {
        "sentences": _bytes(answer.text for answer in answers),
        "finish_reason": _bytes(answer.finish_reason for answer in answers),
        "prompt_tokens": _integers(answer.prompt_tokens for answer in answers),
        "completion_tokens": _integers(answer.completion_tokens for answer in answers),
    }
    if any(sequence.log_probs for sequence in sequences):
        outputs["log_probs"] = _padded([answer.log_probs for answer in answers])
        outputs["log_probs_lengths"] = _integers(len(answer.log_probs) for answer in answers)
        outputs["tokens"] = _bytes(json.dumps(answer.tokens, ensure_ascii=False) for answer in answers)
    if any(sequence.top_logprobs for sequence in sequences):
        outputs["top_logprobs"] = _bytes(json.dumps(answer.top_logprobs, ensure_ascii=False) for answer in answers)
    return [(name, array) for name, array in outputs.items() if name in wanted]


def text_array(text: str) -> NDArray[Any]:
    """Return one text as BYTES of shape (1, 1)."""
    return _bytes([text])


def _bytes(texts: Any) -> NDArray[Any]:
    return np.array([[text.encode()] for text in texts], dtype=np.object_)


def _integers(values: Any) -> NDArray[Any]:
    return np.array([[value] for value in values], dtype=np.int64)


def _padded(sequences: Sequence[Sequence[float]]) -> NDArray[Any]:
    array = np.zeros((len(sequences), max([1, *(len(sequence) for sequence in sequences)])), dtype=np.float32)
    for index, sequence in enumerate(sequences):
        array[index, : len(sequence)] = sequence
    return array
