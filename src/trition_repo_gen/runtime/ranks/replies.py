"""From an engine's finished request to the answer that the client gets; kept by the rank that speaks for a replica."""

from typing import Any

from ..protocol import Answer, Deltas, Done, FinishReason, Refused, Row
from .bus import Admission, Ending
from .engine import StepResult, failed
from .text import TextCodec, TextStream


def is_watched(row: Row) -> bool:
    """Whether the row's text matters at every step, and not only at its end."""
    return row.stream or bool(row.stop_words)


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

    def after_step(self, result: StepResult) -> "list[Deltas | Done | Refused | Ending]":
        """Return what there is to tell: new text, rows that met a stop word and have to end, answers."""
        messages: list[Deltas | Done | Refused | Ending] = []
        deltas = []
        for request_id, tokens in result.tokens.items():
            row = self._rows[request_id]
            stopped = row.push(tokens)
            if request_id in result.finished:
                continue
            if stopped:
                messages.append(Ending(request_id))
            if row.streams and (text := row.take_text()):
                deltas.append((request_id, text))
        if deltas:
            messages.insert(0, Deltas(deltas))
        messages += [
            self._answer(self._rows.pop(id_), request, result.decode_seconds[id_])
            for id_, request in result.finished.items()
        ]
        return messages

    def _answer(self, row: "_RowText", request: Any, decode_seconds: float) -> Done | Refused:
        if refusal := failed(request):
            return Refused(row.id, "INTERNAL", refusal)
        tokens = request.generated_tokens
        # A row with several end tokens is stopped by the engine's stop words, which cut the token off.
        ended = bool(tokens) and tokens[-1] in self._eos_ids
        reason: FinishReason = "length"
        if row.stopped_at is not None or ended or len(tokens) < request.sampling_params.num_tokens_to_generate:
            reason = "stop"
        answer = row.answer(tokens, reason, request)
        return Done(row.id, answer, row.rest_of(answer.text) if row.streams else "", decode_seconds)


class _RowText:
    def __init__(self, admission: Admission, codec: TextCodec):
        self.id = admission.id
        self.streams = admission.row.stream
        self._admission = admission
        self._codec = codec
        self._stream: TextStream | None = codec.stream() if is_watched(admission.row) else None
        self._tokens = 0
        self.stopped_at: int | None = None
        """Characters of the answer before its first stop word."""
        self._kept_tokens: int | None = None
        self._told = 0
        """Characters of prompt (where it is echoed) and answer that the client has."""

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

    def take_text(self) -> str:
        """Return the text that is certain by now and was not told before."""
        assert self._stream is not None
        text = self._stream.text
        certain = self.stopped_at if self.stopped_at is not None else len(text) - self._withheld(text)
        text = self._admission.text + text[:certain]
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new

    def rest_of(self, text: str) -> str:
        """Return what was not told of the whole `text`."""
        return text[self._told :]

    def _withheld(self, text: str) -> int:
        """Return how many characters at the end may turn out to begin a stop word."""
        most = 0
        for word in self._admission.row.stop_words:
            for length in range(min(len(word) - 1, len(text)), most, -1):
                if text.endswith(word[:length]):
                    most = length
                    break
        return most

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
            tokens=self._spellings(tokens) if row.log_probs else [],
        )

    def _spellings(self, tokens: list[int]) -> list[str]:
        prompt = self._admission.tokens if self._admission.row.echo else []
        return [self._codec.spell(token) for token in [*prompt, *tokens]]
