"""Triton kernels for both engines, and how a kernel starts before the previous one has finished."""
