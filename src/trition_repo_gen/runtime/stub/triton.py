"""Helpers around Triton's Python backend that all models share."""

from collections.abc import Collection
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from .parameters import check_parameters
from .requests import INPUTS


def input_arrays(request: Any, names: Collection[str] = INPUTS) -> dict[str, NDArray[Any]]:
    """Return copies of the inputs of a request, by name.

    Raises:
        BadRequestError: the request has a parameter that is none of the inputs.
    """
    check_parameters(request, names)
    # `get_input_tensor_by_name` would create all tensors again for each name.
    tensors = ((tensor.name(), tensor) for tensor in request.inputs())
    return {name: np.array(tensor.as_numpy()) for name, tensor in tensors if name in names}


def send_error(sender: Any, kind: str, sentence: str) -> None:
    """Send an error as the final response; `kind` is the name of an error code of `pb_utils.TritonError`."""
    error = pb_utils.TritonError(sentence, getattr(pb_utils.TritonError, kind))
    sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
