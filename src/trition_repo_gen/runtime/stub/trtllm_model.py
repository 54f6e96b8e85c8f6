"""The Python-backend model that looks like a TensorRT-LLM one: decoupled, one row a request, one response or many."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..common.protocol import Done, Row
from . import trtllm
from .requests import read_rows
from .stream_model import GuestModel, Outputs


class TritonPythonModel(GuestModel):
    """Hands rows to another model's ranks under the names of TensorRT-LLM's tensors."""

    inputs = trtllm.INPUTS
    text_output = "text_output"

    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Return the request's rows."""
        streams = trtllm.wants_stream(tensors)
        rows = read_rows(trtllm.native_inputs(tensors), self.max_prompt_bytes)
        return [replace(row, stream=streams) for row in rows]

    def last_response(self, row: Row, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return the last response's outputs."""
        return trtllm.last_response(row, done, wanted, streamed=row.stream)
