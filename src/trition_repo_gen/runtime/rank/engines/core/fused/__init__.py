"""Megatron's transformer layers for serving: the same weights and results in fewer, larger GPU kernels."""
