"""The interface of an engine to the serving loop, for all kinds of models."""

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...common import wire
from ...common.protocol import SequenceRequest
from .text import Prompt

_WARM_UP_TOKENS = 64
_TOKEN_INPUTS = tuple(tensor for tensor in wire.INPUTS if isinstance(tensor, wire.Tokens))


@dataclass(frozen=True)
class Finished:
    """A sequence that has ended.

    Log-probabilities have one entry per token; those of the prompt begin with its second token. They are empty where
    the sequence did not ask for them.
    """

    tokens: list[int]
    """The generated ones."""
    out_of_tokens: bool
    """Whether it reached its maximum number of tokens."""
    decode_seconds: float = 0.0
    """From its first generated token to its last."""
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    prompt_log_probs: list[float] = field(default_factory=list)
    prompt_top_logprobs: list[dict[str, float]] = field(default_factory=list)
    failure: str | None = None
    """Why the engine failed to finish it; None if it did."""


@dataclass(frozen=True)
class StepResult:
    """Sequences that ended, and new tokens of the watched sequences, both by request id."""

    finished: dict[int, Finished] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)


class Engine(Protocol):
    """One rank's engine.

    All ranks of a replica have to call `add`, `finish` and `step` with the same values in the same order.
    """

    @property
    def slots(self) -> int:
        """Sequences that can run at the same time."""

    @property
    def loop(self) -> AbstractEventLoop:
        """The event loop that `step` has to run in."""

    @property
    def kv_cache_usage(self) -> float:
        """The share of the KV cache's blocks that is in use, from 0 to 1."""

    @property
    def has_work(self) -> bool:
        """Whether any sequence is running or waiting here."""

    def why_impossible(self, prompt: Prompt, sequence: SequenceRequest) -> str | None:
        """Return a sentence for the client if such a sequence could never run, else None."""

    def add(self, request_id: int, sequence: SequenceRequest, prompt: Prompt, *, watch: bool) -> None:
        """Queue a sequence; it joins the running batch at the next step that has a free slot and memory.

        Args:
            request_id: unique among the running sequences, the same on every rank.
            sequence: its sampling parameters and limits.
            prompt: its tokens and images.
            watch: report its tokens after every step.
        """

    def finish(self, request_id: int) -> bool:
        """End a sequence early: a running one leaves the batch, finished, at the next step.

        Returns:
            whether the sequence was waiting and is removed already, so that no step will report it.
        """

    async def step(self) -> StepResult:
        """Run one forward pass over the batch and sample a token for each sequence."""

    def dummy_step(self) -> None:
        """Take part in the expert-parallel exchanges of a step in which this replica has no sequence."""


def end_ids(sequence: SequenceRequest, eos_ids: Sequence[int]) -> list[int]:
    """Return the tokens that end a sequence.

    Args:
        sequence: one that may have ends of its own.
        eos_ids: the model's, the tokenizer's own first; they come first in the result as well.
    """
    ends = () if sequence.ignore_eos else eos_ids
    return [*ends, *(id_ for id_ in sequence.stop_token_ids if id_ not in ends)]


async def warm_up(engine: Engine, max_sequence_length: int) -> None:
    """Answer a sequence of its own: kernels are compiled at their first use, which takes seconds on a GPU.

    Collective: all ranks of a group call it at the same time.
    """
    tokens = [0] * min(_WARM_UP_TOKENS, max_sequence_length - 2)
    if not tokens:
        return
    engine.add(0, SequenceRequest(prompt="", max_length=2), Prompt("", tokens), watch=False)
    while engine.has_work:
        await engine.step()


def why_impossible(
    tokens: Sequence[int], sequence: SequenceRequest, *, max_sequence_length: int, vocab_size: int, room: int
) -> str | None:
    """Return a sentence for the client if a sequence could never run, else None.

    Args:
        tokens: its prompt.
        sequence: its sampling parameters and limits.
        max_sequence_length: of prompt and answer together, in tokens.
        vocab_size: of the model, in tokens.
        room: tokens that the KV cache holds.
    """
    limit = max_sequence_length
    prompt_tokens = len(tokens)
    if prompt_tokens + min(1, sequence.max_length) > limit:
        limits = f"this model's {wire.context_length(limit)} with the answer"
        return f"The prompt has {prompt_tokens} tokens, but {limits}; shorten it."
    if sequence.max_length > limit:
        limits = f"{wire.context_length(limit)}: prompt and answer have at most {limit} tokens"
        return f"max_length is {sequence.max_length}, but this model's {limits}."
    if sequence.top_logprobs > vocab_size:
        return f"n_top_logprobs is {sequence.top_logprobs}; the vocabulary has {vocab_size} tokens."
    for tensor in _TOKEN_INPUTS:
        if (unknown := max(getattr(sequence, tensor.attribute), default=0)) >= vocab_size:
            return f"{tensor.name} has the token {unknown}; the vocabulary has {vocab_size} tokens."
    if (strange := max(tokens)) >= vocab_size:
        # A tokenizer may have more tokens than the model: Gemma 3's has one for images, which its text models lack.
        return f"The prompt has the token {strange}, which this model does not know; it knows {vocab_size}."
    if min(prompt_tokens + sequence.max_length, limit) > room:
        needed = prompt_tokens + sequence.max_length
        limits = f"the KV cache has {room}: the {wire.context_length(room)}"
        return f"Prompt and answer need room for {needed} tokens; {limits}."
    return None
