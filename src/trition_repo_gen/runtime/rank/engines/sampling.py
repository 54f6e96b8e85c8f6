"""Sampling with parameters of its own for every sequence.

A sequence's random numbers depend on its seed, the token's position and nothing else: not on the other sequences of the
batch, not on the layout, not on the device.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.protocol import SequenceRequest


class SequenceState:
    """What the sampler remembers of a sequence between steps."""

    def __init__(self, sequence: SequenceRequest, prompt_tokens: Iterable[int], vocab_size: int, device: torch.device):
        self.sequence = sequence
        self.position = 0
        self.seen: Tensor | None = None
        """bool[vocab_size]: tokens of the prompt and of the answer so far; kept only where a penalty needs it."""
        if sequence.repetition_penalty != 1.0:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self.seen[_on(device, list(prompt_tokens))] = True


class Sampler:
    """Chooses the sequences' next tokens.

    Args:
        vocab_size: tokens that the tokenizer knows; the model's padding beyond them is never sampled.
        eos_ids: tokens that end a sequence, which it does not take before it has `min_length` others.
    """

    def __init__(self, vocab_size: int, eos_ids: Sequence[int] = ()):
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._sequences: dict[int, SequenceState] = {}

    def add(
        self, request_id: int, sequence: SequenceRequest, prompt_tokens: Iterable[int], device: torch.device
    ) -> None:
        """Sample request `request_id` by the parameters of `sequence`."""
        self._sequences[request_id] = SequenceState(sequence, prompt_tokens, self._vocab_size, device)

    def remove(self, request_id: int) -> None:
        """Forget a request that ended."""
        self._sequences.pop(request_id, None)

    def sample(self, logits: Tensor, request_ids: Sequence[int], unfinished: int = -1) -> Tensor:
        """Choose one token a sequence.

        Args:
            logits: [sequences, at least the vocabulary]
            request_ids: one for each sequence; one that was not added is sampled greedily.
            unfinished: a request of which only a part of the prompt was read: its token does not count.

        Returns:
            int64[sequences]
        """
        logits = logits[:, : self._vocab_size]
        states = [self._sequences.get(request_id) for request_id in request_ids]

        logits = self._hold_back_ends(_penalise(logits, states), states)
        tokens = _argmax(logits)
        drawn = [index for index, state in enumerate(states) if state is not None and not state.sequence.greedy]
        if drawn:
            index = _on(logits.device, drawn)
            tokens[index] = draw(logits[index].float(), [states[i] for i in drawn])  # type: ignore[misc]

        for index, (request_id, state) in enumerate(zip(request_ids, states, strict=True)):
            if state is not None and request_id != unfinished:
                state.position += 1
                if state.seen is not None:
                    state.seen.index_fill_(0, tokens[index : index + 1], True)
        return tokens

    def _hold_back_ends(self, logits: Tensor, states: list[SequenceState | None]) -> Tensor:
        """Set the ends of sequences that are too short for one to -inf."""
        short = [
            i for i, state in enumerate(states) if state is not None and state.position < state.sequence.min_length
        ]
        if not short or not self._eos_ids:
            return logits
        logits = logits.clone()
        logits[_on(logits.device, short)[:, None], _on(logits.device, self._eos_ids)] = float("-inf")
        return logits


def _penalise(logits: Tensor, states: list[SequenceState | None]) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens by the penalty (CTRL, Keskar et al. 2019)."""
    if all(state is None or state.seen is None for state in states):
        return logits
    logits = logits.to(torch.float32, copy=True)
    for index, state in enumerate(states):
        if state is not None and state.seen is not None:
            penalty = state.sequence.repetition_penalty
            sequence = logits[index]
            logits[index] = torch.where(
                state.seen, torch.where(sequence > 0, sequence / penalty, sequence * penalty), sequence
            )
    return logits


def draw(logits: Tensor, states: list[SequenceState]) -> Tensor:
    """Draw one token a sequence after temperature, top-k and top-p, in this order.

    Args:
        logits: float32[sequences, vocabulary]
        states: one for each sequence.

    Returns:
        int64[sequences]
    """
    sequences = [state.sequence for state in states]
    logits = logits / _on(logits.device, [[sequence.temperature] for sequence in sequences])
    few = [index for index, sequence in enumerate(sequences) if 0 < sequence.top_k <= _FEW]
    many = [
        index
        for index, sequence in enumerate(sequences)
        if sequence.top_k > _FEW or (sequence.top_k <= 0 and 0.0 < sequence.top_p < 1.0)
    ]
    for chosen, largest in ((few, _FEW), (many, logits.shape[-1])):
        if chosen:
            index = _on(logits.device, chosen)
            logits[index] = _filter(logits[index], [sequences[i] for i in chosen], largest)
    keys = [[_signed(mix_int(state.sequence.seed + _GOLDEN * (state.position + 1)))] for state in states]
    return _argmax(logits + gumbel_noise(_on(logits.device, keys), logits.shape[-1]))


def _argmax(logits: Tensor) -> Tensor:
    return _argmax_on(logits.device.type)(logits)


@functools.cache
def _argmax_on(kind: str) -> Callable[[Tensor], Tensor]:
    """Return the fastest argmax of that device; on a GPU torch takes ten times as long for one sequence."""
    by_torch = functools.partial(torch.argmax, dim=-1)
    if kind == "cpu":
        return by_torch
    try:
        from .kernels.argmax import argmax

        argmax(torch.zeros(1, 1, device=kind))
    except Exception as error:  # whatever a compiler says: there is another way
        logging.warning("Tokens are chosen by torch's kernels: %s: %s", type(error).__name__, error)
        return by_torch
    return argmax


def _filter(logits: Tensor, sequences: list[SequenceRequest], largest: int) -> Tensor:
    """Set what top-k and then top-p (Holtzman et al. 2020) leave out to -inf.

    Sums over the `largest` logits, whose number must not depend on what other sequences ask for: a sequence's last bit
    would.
    """
    size = min(largest, logits.shape[-1])
    ordered = logits.topk(size, dim=-1).values
    kept = [min(sequence.top_k, size) or size for sequence in sequences]
    top_k = _on(logits.device, [[k] for k in kept])
    smallest = ordered.gather(-1, top_k - 1)
    ordered = ordered.masked_fill(ordered < smallest, float("-inf"))

    top_p = _on(logits.device, [[sequence.top_p if 0.0 < sequence.top_p < 1.0 else 1.0] for sequence in sequences])
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    inside = ((before < top_p) & (probabilities > 0)).sum(dim=-1, keepdim=True).clamp(min=1)
    smallest = torch.maximum(smallest, ordered.gather(-1, inside - 1))
    return logits.masked_fill(logits < smallest, float("-inf"))


def _on(device: torch.device, values: list[Any]) -> Tensor:
    """Return the values on the device, without waiting for what it computes at the time."""
    if device.type == "cpu":
        return torch.tensor(values)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


_FEW = 1024
"""Logits that are ordered for sequences whose top-k is no larger: ordering all takes milliseconds on a GPU."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix_int(value: int) -> int:
    """Return the finaliser of SplitMix64 (Steele, Lea, Flood 2014) of a 64-bit number."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def gumbel_noise(keys: Tensor, size: int) -> Tensor:
    """Return Gumbel noise that depends on each sequence's key and the column alone.

    Args:
        keys: int64[sequences, 1]
        size: columns.

    Returns:
        float32[sequences, size]
    """
    columns = torch.arange(1, size + 1, device=keys.device)
    mixed = _mix(keys + columns * _signed(_GOLDEN))
    # The largest of 2**24 numbers rounds to 1 in float32, which would make its column's noise infinite.
    uniform = ((((mixed >> 40) & 0xFFFFFF).float() + 0.5) / (1 << 24)).clamp_(max=1 - 2**-24)
    return -torch.log(-torch.log(uniform))


def _mix(value: Tensor) -> Tensor:
    """`mix_int` for int64 tensors, whose products wrap around as 64-bit numbers do."""
    value = (value ^ _shift(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shift(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift right without the sign: torch's own shift of int64 keeps it."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
