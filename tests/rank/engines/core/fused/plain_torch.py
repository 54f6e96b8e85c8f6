"""What the fused kernels compute, in plain torch, and how far a result is from it."""

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-5
"""Of all norms."""
TOLERANCE = 1e-5
"""Largest difference in float32."""


def distance(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors; NaN if one of them has it where the other does not."""
    return float((got - expected).abs().max())


def rounding_errors(got: Tensor, expected: Tensor) -> float:
    """Return by how much rounding to bfloat16 does not explain the difference, as a multiple of what it does."""
    return float(((got.float() - expected).abs() / (expected.abs() * 2**-7 + 1e-6) - 1).max().clamp(min=0))


def whole_numbers(*shape: int) -> Tensor:
    """Return random numbers whose products' sums are exact in bfloat16, in whatever order they are added."""
    return torch.randint(-1, 2, shape).bfloat16()


def split_and_rotate(
    mixed: Tensor, groups: int, size: int, angles: Tensor, query_norm: Tensor | None, key_norm: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Split the output of a layer's linear_qkv; norm and rotate its queries and keys.

    Args:
        mixed: [tokens, groups * (heads of a group + 2) * size]
        angles: of each token, [tokens, half of what is rotated]
        query_norm: weights [size], as `key_norm`, or None.

    Returns:
        queries [tokens, groups, heads of a group, size], keys and values [tokens, groups, size]
    """
    parts = mixed.view(mixed.shape[0], groups, -1, size)
    queries, key, value = parts[:, :, :-2], parts[:, :, -2:-1], parts[:, :, -1]
    if query_norm is not None and key_norm is not None:
        queries = functional.rms_norm(queries, (size,), query_norm, EPS)
        key = functional.rms_norm(key, (size,), key_norm, EPS)
    queries, key = (_rotate(x, angles[:, None, None]) for x in (queries, key))
    return queries, key[:, :, 0], value


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the first halves and the second halves of what the angles cover."""
    half = angles.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=-1)
