"""The OpenAI-compatible service in front of Triton, and its page.

It depends on the wire only: a request becomes one sequence per answer, and each sequence is one gRPC call.
"""

from .options import RestOptions

__all__ = ["RestOptions"]
