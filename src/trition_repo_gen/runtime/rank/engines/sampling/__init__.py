"""Sampling with parameters of its own for every sequence, as a list of processors over a step's logits.

A sampling parameter is one class in a file of its own and its place in `registry.py`. `Sampler` applies each class to
the sequences that ask for it, adds noise to the logits of sequences that are sampled, and takes the largest. A
sequence's random numbers depend on its seed, the token's position and nothing else: not on the other sequences of the
batch, not on the layout, not on the device.
"""

from .sampler import Sampler

__all__ = ["Sampler"]
