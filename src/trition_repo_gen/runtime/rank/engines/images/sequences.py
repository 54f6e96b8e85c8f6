"""A running sequence of the multimodal engine, from its admission to its end."""

from dataclasses import dataclass, field, replace

from ....common.protocol import SequenceRequest
from ..api import Finished
from ..text import Prompt
from .attention import Span


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of consecutive tokens, and of the most likely tokens in their places, by spelling."""

    chosen: list[float] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chosen:
    """A sequence's result of a step: its new token, and log-probabilities if it asked for them."""

    token: int
    log_probs: LogProbs = field(default_factory=LogProbs)
    """Of the new token; in a sequence's first step possibly of the prompt as well, before it."""


@dataclass(eq=False)
class RunningSequence:
    """A sequence and its generated tokens."""

    id: int
    sequence: SequenceRequest
    prompt: Prompt
    limit: int
    """Maximum number of generated tokens."""
    end_ids: frozenset[int]
    """Tokens that end it."""
    tokens: list[int] = field(default_factory=list)
    """Generated ones."""
    next_position: int = 0
    """Position of the first generated token in all three dimensions; set when the prompt is read."""
    first_token: float = 0.0
    """When it was generated, in seconds of the monotonic clock."""
    ending: bool = False
    """Whether it ends before the next step."""
    _log_probs: LogProbs = field(default_factory=LogProbs)

    @property
    def length(self) -> int:
        """Its maximum number of tokens, with the prompt."""
        return len(self.prompt.tokens) + self.limit

    @property
    def span(self) -> Span:
        """Its part in the next step: the whole prompt, or its newest token."""
        known = len(self.prompt.tokens) + len(self.tokens)
        return Span(self.id, known - 1 if self.tokens else 0, known)

    @property
    def step_tokens(self) -> list[int]:
        """Its tokens in the next step."""
        return self.tokens[-1:] or self.prompt.tokens

    @property
    def wants_log_probs(self) -> bool:
        """Whether it asks for log-probabilities."""
        return self.sequence.log_probs or self.sequence.top_logprobs > 0

    @property
    def logits_wanted(self) -> int:
        """The number of its last tokens in the next step whose logits are needed."""
        return len(self.span) if self.sequence.echo and self.wants_log_probs and not self.tokens else 1

    def take(self, chosen: Chosen, now: float) -> None:
        """Add the result of a step."""
        if not self.tokens:
            self.first_token = now
            self.prompt = replace(self.prompt, images=None)  # megabytes that no later step uses
        self.tokens.append(chosen.token)
        self._log_probs.chosen.extend(chosen.log_probs.chosen)
        self._log_probs.top.extend(chosen.log_probs.top)

    def finished(self, now: float) -> Finished:
        """Return the finished sequence for the serving loop."""
        chosen, top = self._log_probs.chosen, self._log_probs.top
        in_prompt = max(0, len(chosen) - len(self.tokens))
        return Finished(
            tokens=self.tokens,
            out_of_tokens=len(self.tokens) >= self.limit,
            decode_seconds=now - self.first_token if self.tokens else 0.0,
            log_probs=chosen[in_prompt:],
            top_logprobs=top[in_prompt:],
            prompt_log_probs=chosen[:in_prompt],
            prompt_top_logprobs=top[:in_prompt],
        )
