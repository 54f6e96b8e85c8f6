"""The tensors of a TensorRT-LLM model, which Triton's OpenAI frontend and genai-perf send to every Python model.

Source: triton-inference-server/server, python/openai/openai_frontend/engine/utils/triton.py,
`_create_trtllm_generate_request` and `_get_usage_from_response`.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common import wire
from ..common.protocol import Done, SequenceRequest
from ..common.wire import BadRequestError
from .responses import text_array

NAMES = {tensor.name: tensor.trtllm.name for tensor in wire.INPUTS if tensor.trtllm is not None}
"""Names of the inputs by those of the same parameters' tensors in other models."""
_RENAMED = {name: own for own, name in NAMES.items()}

INPUTS = frozenset(alias.name for alias, _ in wire.TRTLLM_INPUTS)
"""Names of the inputs, each of shape (1, 1), `stop_words` of (1, any). The token counts come in any case."""


def native_inputs(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what `read_sequences` reads.

    A request with a temperature or a `top_p` and without `top_k` samples from all tokens, as OpenAI's API does; one
    with nothing of that is greedy, as TensorRT-LLM is.

    Raises:
        BadRequestError: it asks for something that there is not.
    """
    for alias, only in wire.TRTLLM_ONLY.items():
        if alias.name in tensors and np.any(tensors[alias.name] != only):
            raise BadRequestError(f"{alias.name} is {tensors[alias.name].ravel()[0]}; this model can do {only} only.")
    native = {_RENAMED[name]: tensor for name, tensor in tensors.items() if name in _RENAMED}
    if "top_k" not in native and {"top_p", "temperature"} & native.keys():
        native["top_k"] = np.array([[1 if np.any(native.get("top_p", 1.0) == 0.0) else 0]])
    if "stop_words" in tensors:
        words = [word.decode(errors="replace") for word in tensors["stop_words"].ravel() if word]
        native["stop_words"] = np.array([[json.dumps(words).encode()]], dtype=np.object_)
    if "exclude_input_in_output" in tensors:
        native["echo"] = ~tensors["exclude_input_in_output"]
    return native


def wants_stream(tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether text is to come as it grows."""
    return bool(np.any(tensors.get("stream", False)))


def last_response(
    sequence: SequenceRequest, done: Done, wanted: Collection[str], *, streamed: bool
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and array of the last response's outputs: token counts, and the text that did not come before."""
    answer = done.answer
    outputs = {
        "text_output": text_array(done.rest if streamed else answer.text),
        "num_input_tokens": np.array([[answer.prompt_tokens]], dtype=np.int32),
        "num_output_tokens": np.array([[answer.completion_tokens]], dtype=np.int32),
    }
    if sequence.log_probs:
        outputs["output_log_probs"] = np.array([answer.log_probs], dtype=np.float32)
        outputs["cum_log_probs"] = np.array([[sum(answer.log_probs)]], dtype=np.float32)
    yield from ((name, array) for name, array in outputs.items() if name in wanted)
