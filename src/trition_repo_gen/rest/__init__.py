"""The OpenAI-compatible service in front of Triton, and its page.

It knows the wire and nothing else: a request becomes one sequence for each answer, each sequence one gRPC call.
"""

from .options import RestOptions

__all__ = ["RestOptions"]
