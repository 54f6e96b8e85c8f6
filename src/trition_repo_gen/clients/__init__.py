"""Query classes over tritonclient, which depend on the wire only.

from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch

with LLMClient("localhost:8000", "llama") as client:
    client.wait_ready(60)
    client.infer(["One", "Two"], max_length=[4, 8], temperature=0.0)[1].text
"""

from .errors import ServerFailedError
from .llm import Completion, LLMClient
from .nemo import NemoQueryLLMPyTorch, NemoQueryMultimodalPytorch

__all__ = ["Completion", "LLMClient", "NemoQueryLLMPyTorch", "NemoQueryMultimodalPytorch", "ServerFailedError"]
