"""What an engine's step brought; every engine reports it in this form."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finished:
    """A row that has ended.

    Log-probabilities have one entry a token; those of the prompt begin with its second token. They are lists only where
    the row asked for them.
    """

    tokens: list[int]
    """The new ones, with the token that ended it where that is one of the vocabulary's ends."""
    out_of_tokens: bool
    """Whether it ended because it had as many tokens as it may."""
    decode_seconds: float = 0.0
    """From its first token to its last."""
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    prompt_log_probs: list[float] = field(default_factory=list)
    prompt_top_logprobs: list[dict[str, float]] = field(default_factory=list)
    failure: str | None = None
    """Why the engine gave it up."""


@dataclass(frozen=True)
class StepResult:
    """Rows that ended by id, and new tokens of the rows that are watched."""

    finished: dict[int, Finished] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
