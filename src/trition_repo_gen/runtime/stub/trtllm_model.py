"""The Python-backend model with TensorRT-LLM's tensors: decoupled, one sequence per request."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..common import wire
from ..common.protocol import Done, SequenceRequest
from . import trtllm
from .requests import read_sequences
from .stream_model import DecoupledModel, Outputs


class TritonPythonModel(DecoupledModel):
    """Submits sequences to another model's ranks, with the tensor names of TensorRT-LLM."""

    inputs = trtllm.INPUTS
    text_output = "text_output"

    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[SequenceRequest]:
        """Return the request's sequences."""
        streams = trtllm.wants_stream(tensors)
        sequences = read_sequences(trtllm.native_inputs(tensors), self.prompt_limit)
        return [replace(sequence, stream=streams) for sequence in sequences]

    def explain(self, sentence: str) -> str:
        """Return a refusal in the names of TensorRT-LLM's tensors."""
        return wire.rename_inputs(sentence, trtllm.NAMES)[0]

    def last_response(self, sequence: SequenceRequest, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return the outputs of the final response."""
        return trtllm.last_response(sequence, done, wanted, streamed=sequence.stream)
