"""From a request's input tensors to sequences, each value checked once."""

import json
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from ..common.protocol import SequenceRequest
from .errors import BadRequestError
from .images import ImageLimits, read_images

INPUTS = (
    "prompts",
    "images",
    "max_length",
    "max_batch_size",
    "top_k",
    "top_p",
    "temperature",
    "random_seed",
    "compute_logprob",
    "apply_chat_template",
    "echo",
    "use_greedy",
    "n_top_logprobs",
    "repetition_penalty",
    "min_length",
    "stop_words",
)
"""Names of the model's inputs. `max_batch_size` is what old clients send; nothing depends on it."""

_MAX_INT = 2**31 - 1
# Looked for at every token, while everybody's sequences wait.
_MOST_STOP_WORDS = 64
_MOST_STOP_CHARACTERS = 256
# Every token's are kept, sorted and sent.
_MOST_TOP_LOGPROBS = 256

_NEW_TOKENS = 256
_NEW_TOKENS_MULTIMODAL = 50


def read_sequences(
    tensors: Mapping[str, NDArray[Any]], max_prompt_bytes: int, images: ImageLimits | None = None
) -> list[SequenceRequest]:
    """Return a request's sequences.

    Args:
        tensors: inputs by name, each of shape (N, 1): BYTES as objects, INT64, FP32, BOOL. Only `prompts` is required.
        max_prompt_bytes: longer prompts cannot fit, whatever their tokens are.
        images: what a multimodal model takes, None for a language model.

    Raises:
        BadRequestError: a value makes no sense.
    """
    if "prompts" not in tensors:  # Triton does not see it: it counts inputs, and others may be there
        raise BadRequestError("prompts is missing; send one text a sequence.")
    count = tensors["prompts"].shape[0]
    for name, tensor in tensors.items():
        if tensor.shape != (count, 1):
            raise BadRequestError(f"{name} has the shape {list(tensor.shape)}; it has to be [{count}, 1].")
    if count == 0:
        raise BadRequestError("prompts has no sequences; send at least one.")
    return [
        _read_sequence({name: tensor[index, 0] for name, tensor in tensors.items()}, max_prompt_bytes, images)
        for index in range(count)
    ]


def _read_sequence(values: Mapping[str, Any], max_prompt_bytes: int, images: ImageLimits | None) -> SequenceRequest:
    prompt = _text("prompts", values["prompts"], max_prompt_bytes)
    top_k = _integer(values, "top_k", 1, least=0)
    if bool(values.get("use_greedy", False)):
        top_k = 1
    seed = values.get("random_seed")
    return SequenceRequest(
        prompt=prompt,
        chat=bool(values.get("apply_chat_template", False)),
        max_length=_integer(values, "max_length", _NEW_TOKENS if images is None else _NEW_TOKENS_MULTIMODAL, least=1),
        temperature=_number(values, "temperature", 1.0, "0 or more", lambda value: value >= 0),
        top_k=top_k,
        top_p=_number(values, "top_p", 0.0, "between 0 and 1", lambda value: 0 <= value <= 1),
        seed=secrets.randbits(63) if seed is None else int(seed) & (2**63 - 1),
        repetition_penalty=_number(values, "repetition_penalty", 1.0, "above 0", lambda value: value > 0),
        log_probs=bool(values.get("compute_logprob", False)),
        top_logprobs=_integer(values, "n_top_logprobs", 0, least=0, most=_MOST_TOP_LOGPROBS),
        echo=bool(values.get("echo", False)),
        stop_words=_stop_words(values.get("stop_words")),
        min_length=_integer(values, "min_length", 0, least=0),
        images=[] if images is None else read_images(values.get("images", b""), images),
    )


def _text(name: str, value: Any, limit: int) -> str:
    data = value.encode() if isinstance(value, str) else bytes(value)
    if not data:
        raise BadRequestError(f"{name} has an empty text; send at least one character.")
    if len(data) > limit:
        raise BadRequestError(f"{name} has a text of {len(data)} bytes; this model's sequences hold at most {limit}.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequestError(f"{name} has a text that is not UTF-8 (byte {error.start}).") from None


def _integer(values: Mapping[str, Any], name: str, default: int, *, least: int, most: int = _MAX_INT) -> int:
    value = int(values.get(name, default))
    if not least <= value <= most:
        raise BadRequestError(f"{name} is {value}; it has to be {least} or more, and at most {most}.")
    return value


def _number(values: Mapping[str, Any], name: str, default: float, wanted: str, valid: Callable[[float], bool]) -> float:
    value = float(values.get(name, default))
    if not math.isfinite(value) or not valid(value):
        raise BadRequestError(f"{name} is {value}; it has to be {wanted}.")
    return value


def _stop_words(value: Any) -> list[str]:
    if value is None:
        return []
    try:
        words = json.loads(value)
        # JSON can spell half a character, which no text has.
        valid = isinstance(words, list) and all(isinstance(word, str) and word.encode() for word in words)
    except (ValueError, RecursionError):
        valid = False
    if not valid:
        raise BadRequestError('stop_words has to be a JSON list of texts such as ["\\n", "END"], none of them empty.')
    if len(words) > _MOST_STOP_WORDS or any(len(word) > _MOST_STOP_CHARACTERS for word in words):
        raise BadRequestError(
            f"stop_words has {len(words)} texts, the longest of {max(map(len, words))} characters; "
            f"send at most {_MOST_STOP_WORDS} of at most {_MOST_STOP_CHARACTERS}."
        )
    return list(words)
