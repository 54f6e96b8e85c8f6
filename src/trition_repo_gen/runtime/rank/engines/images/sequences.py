"""A sequence from its admission to its end."""

from dataclasses import dataclass, field, replace

from ....common.protocol import SequenceRequest
from ..api import Finished
from ..text import Prompt
from .attention import Span


@dataclass(frozen=True)
class LogProbs:
    """Of tokens one after the other: their own log-probability, and the most likely ones' by spelling."""

    chosen: list[float] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chosen:
    """What a step brought a sequence: its new token, and log-probabilities where it asked for them."""

    token: int
    log_probs: LogProbs = field(default_factory=LogProbs)
    """One entry, before which those of the prompt may stand."""


@dataclass(eq=False)
class RunningSequence:
    """A sequence with the tokens that it has got."""

    id: int
    sequence: SequenceRequest
    prompt: Prompt
    limit: int
    """New tokens."""
    tokens: list[int] = field(default_factory=list)
    """New ones."""
    next_position: int = 0
    """Of the first new token, in all three dimensions; known once the prompt was read."""
    first_token: float = 0.0
    """When it came, on the monotonic clock."""
    ending: bool = False
    """Whether it leaves before the next step."""
    _log_probs: LogProbs = field(default_factory=LogProbs)

    @property
    def length(self) -> int:
        """Tokens that it may grow to."""
        return len(self.prompt.tokens) + self.limit

    @property
    def span(self) -> Span:
        """Its part in the next step: the whole prompt, or its newest token."""
        known = len(self.prompt.tokens) + len(self.tokens)
        return Span(self.id, known - 1 if self.tokens else 0, known)

    @property
    def step_tokens(self) -> list[int]:
        """The tokens of its part."""
        return self.tokens[-1:] or self.prompt.tokens

    @property
    def wants_log_probs(self) -> bool:
        """Whether log-probabilities are to be computed."""
        return self.sequence.log_probs or self.sequence.top_logprobs > 0

    @property
    def logits_wanted(self) -> int:
        """Of how many tokens, the last of its part, logits are needed."""
        return len(self.span) if self.sequence.echo and self.wants_log_probs and not self.tokens else 1

    def take(self, chosen: Chosen, now: float) -> None:
        """Add what a step brought."""
        if not self.tokens:
            self.first_token = now
            self.prompt = replace(self.prompt, images=None)  # megabytes that no later step looks at
        self.tokens.append(chosen.token)
        self._log_probs.chosen.extend(chosen.log_probs.chosen)
        self._log_probs.top.extend(chosen.log_probs.top)

    def finished(self, now: float) -> Finished:
        """Return the sequence as the serving loop takes it."""
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
