"""From an engine's finished request to the answer that the client gets; kept by the rank that speaks for a replica."""

from typing import Any

from ..protocol import Answer, Done, FinishReason, Refused
from .bus import Admission
from .engine import StepResult, failed
from .text import TextCodec, TextStream


class Replies:
    """Follows the rows of one replica from admission to answer."""

    def __init__(self, codec: TextCodec, eos_ids: list[int]):
        self._codec = codec
        self._eos_ids = frozenset(eos_ids)
        self._rows: dict[int, _RowText] = {}

    def add(self, admission: Admission) -> None:
        """Follow a row."""
        self._rows[admission.id] = _RowText(admission, self._codec)

    def forget(self, request_id: int) -> None:
        """A row that nobody waits for left without a result."""
        self._rows.pop(request_id, None)

    def after_step(self, result: StepResult) -> tuple[list[Done | Refused], list[int]]:
        """Return answers to send, and rows that met a stop word and have to end."""
        stopping = [
            request_id
            for request_id, tokens in result.tokens.items()
            if self._rows[request_id].push(tokens) and request_id not in result.finished
        ]
        return [self._answer(self._rows.pop(id_), request) for id_, request in result.finished.items()], stopping

    def _answer(self, row: "_RowText", request: Any) -> Done | Refused:
        if refusal := failed(request):
            return Refused(row.id, "INTERNAL", refusal)
        tokens = request.generated_tokens
        # A row with several end tokens is stopped by the engine's stop words, which cut the token off.
        ended = bool(tokens) and tokens[-1] in self._eos_ids
        reason: FinishReason = "length"
        if row.stopped_at is not None or ended or len(tokens) < request.sampling_params.num_tokens_to_generate:
            reason = "stop"
        return Done(row.id, row.answer(tokens, reason, request))


class _RowText:
    def __init__(self, admission: Admission, codec: TextCodec):
        self.id = admission.id
        self._admission = admission
        self._codec = codec
        self._stream: TextStream | None = codec.stream() if admission.row.stop_words else None
        self._tokens = 0
        self.stopped_at: int | None = None
        """Characters of the answer before its first stop word."""
        self._kept_tokens: int | None = None

    def push(self, tokens: list[int]) -> bool:
        """Add tokens; return whether a stop word was met, now or before."""
        assert self._stream is not None
        for token in tokens:
            if self.stopped_at is not None:
                break
            self._stream.push(token)
            self._tokens += 1
            found = [at for word in self._admission.row.stop_words if (at := self._stream.text.find(word)) >= 0]
            if found:
                self.stopped_at = min(found)
                self._kept_tokens = self._tokens
        return self.stopped_at is not None

    def answer(self, tokens: list[int], reason: FinishReason, request: Any) -> Answer:
        row = self._admission.row
        tokens = tokens[: self._kept_tokens]
        if self.stopped_at is not None and self._stream is not None:
            text = self._stream.text[: self.stopped_at]
        else:
            text = self._codec.decode(tokens)
        log_probs: list[float] = []
        top_logprobs: list[dict[str, float]] = []
        if row.log_probs:
            prompt = (request.prompt_log_probs or []) if row.echo else []
            log_probs = prompt + (request.generated_log_probs or [])[: len(tokens)]
        if row.top_logprobs:
            prompt_top = (request.prompt_top_n_logprobs or []) if row.echo else []
            top_logprobs = prompt_top + (request.generated_top_n_logprobs or [])[: len(tokens)]
        return Answer(
            text=self._admission.text + text if row.echo else text,
            finish_reason=reason,
            prompt_tokens=len(self._admission.tokens),
            completion_tokens=len(tokens),
            log_probs=log_probs,
            top_logprobs=top_logprobs,
        )
