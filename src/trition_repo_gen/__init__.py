"""Render a Triton model repository for a Megatron checkpoint and serve it with stock tritonserver."""

__version__ = "0.1.0"
