"""What both models need of Triton's Python backend."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from .requests import INPUTS


def input_arrays(request: Any, names: Iterable[str] = INPUTS) -> dict[str, NDArray[Any]]:
    """Return a request's inputs by name, as arrays of this process's own."""
    tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in names}
    return {name: np.array(tensor.as_numpy()) for name, tensor in tensors.items() if tensor is not None}


def send_error(sender: Any, kind: str, sentence: str) -> None:
    """Fail a request through its response sender; `kind` is the name of a code of `pb_utils.TritonError`."""
    error = pb_utils.TritonError(sentence, getattr(pb_utils.TritonError, kind))
    sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
