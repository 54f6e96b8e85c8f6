"""Turn an engine's finished sequences into answers, on the leader rank of each replica."""

from ...common.protocol import Answer, Deltas, Done, FinishReason, Refused, SequenceRequest
from ..engines.api import Finished, StepResult, end_ids
from ..engines.text import TextCodec, TextStream
from .broadcast import EndSequence, NewSequence


def is_watched(sequence: SequenceRequest) -> bool:
    """Whether the sequence's text is needed after every step, and not only at its end."""
    return sequence.stream or bool(sequence.stop_words)


class Replies:
    """Follows the sequences of one replica from admission to answer."""

    def __init__(self, codec: TextCodec, eos_ids: list[int]):
        self._codec = codec
        self._eos_ids = eos_ids
        self._sequences: dict[int, _SequenceText] = {}

    def add(self, new_sequence: NewSequence) -> None:
        """Follow a sequence."""
        self._sequences[new_sequence.id] = _SequenceText(new_sequence, self._codec)

    def forget(self, request_id: int) -> None:
        """Drop a cancelled sequence that ended without a result."""
        self._sequences.pop(request_id, None)

    def after_step(self, result: StepResult) -> "list[Deltas | Done | Refused | EndSequence]":
        """Return what to report: new text, sequences to end because they reached a stop word, and answers."""
        messages: list[Deltas | Done | Refused | EndSequence] = []
        deltas = []
        for request_id, tokens in result.tokens.items():
            sequence = self._sequences[request_id]
            stopped = sequence.push(tokens)
            if request_id in result.finished:
                continue
            if stopped:
                messages.append(EndSequence(request_id))
            if sequence.streams and (text := sequence.take_text()):
                deltas.append((request_id, text))
        if deltas:
            messages.insert(0, Deltas(deltas))
        messages += [self._answer(self._sequences.pop(id_), finished) for id_, finished in result.finished.items()]
        return messages

    def _answer(self, sequence: "_SequenceText", finished: Finished) -> Done | Refused:
        if finished.failure is not None:
            return Refused(sequence.id, "INTERNAL", finished.failure)
        ended = bool(finished.tokens) and finished.tokens[-1] in end_ids(sequence.request, self._eos_ids)
        stopped = sequence.stopped_at is not None or ended or not finished.out_of_tokens
        answer = sequence.answer(finished, "stop" if stopped else "length")
        return Done(
            sequence.id, answer, sequence.rest_of(answer.text) if sequence.streams else "", finished.decode_seconds
        )


class _SequenceText:
    def __init__(self, new_sequence: NewSequence, codec: TextCodec):
        self.id = new_sequence.id
        self.request = new_sequence.sequence
        self.streams = new_sequence.sequence.stream
        self._new_sequence = new_sequence
        self._codec = codec
        self._stream: TextStream | None = codec.stream() if is_watched(new_sequence.sequence) else None
        self._tokens = 0
        self.stopped_at: int | None = None
        """Characters of the answer before its first stop word."""
        self._kept_tokens: int | None = None
        self._sent = 0
        """Characters of prompt (if echoed) and answer that were sent to the client."""

    def push(self, tokens: list[int]) -> bool:
        """Add tokens; return whether a stop word was reached, now or before."""
        assert self._stream is not None
        for token in tokens:
            if self.stopped_at is not None:
                break
            before = len(self._stream.text)
            self._stream.push(token)
            self._tokens += 1
            text = self._stream.text
            # Only matches that end in the new text can be new.
            starts = [(word, max(0, before - len(word) + 1)) for word in self._new_sequence.sequence.stop_words]
            found = [at for word, start in starts if (at := text.find(word, start)) >= 0]
            if found:
                self.stopped_at = min(found)
                self._kept_tokens = self._tokens
        return self.stopped_at is not None

    def take_text(self) -> str:
        """Return the text that cannot change any more and was not sent before."""
        assert self._stream is not None
        text = self._stream.text
        certain = self.stopped_at if self.stopped_at is not None else len(text) - self._withheld(text)
        text = self._new_sequence.prompt.text + text[:certain]
        new = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return new

    def rest_of(self, text: str) -> str:
        """Return the part of the complete `text` that was not sent."""
        return text[self._sent :]

    def _withheld(self, text: str) -> int:
        """Return the number of characters at the end that may be the beginning of a stop word."""
        most = 0
        for word in self._new_sequence.sequence.stop_words:
            at = text.find(word[0], max(0, len(text) - len(word) + 1))
            while at >= 0 and not word.startswith(text[at:]):
                at = text.find(word[0], at + 1)
            if at >= 0:
                most = max(most, len(text) - at)
        return most

    def answer(self, finished: Finished, reason: FinishReason) -> Answer:
        sequence = self._new_sequence.sequence
        tokens = finished.tokens[: self._kept_tokens]
        text = self._text(tokens)
        prompt = finished.prompt_log_probs if sequence.echo else []
        prompt_top = finished.prompt_top_logprobs if sequence.echo else []
        return Answer(
            text=self._new_sequence.prompt.text + text if sequence.echo else text,
            finish_reason=reason,
            prompt_tokens=len(self._new_sequence.prompt.tokens),
            completion_tokens=len(tokens),
            log_probs=prompt + finished.log_probs[: len(tokens)] if sequence.log_probs else [],
            top_logprobs=prompt_top + finished.top_logprobs[: len(tokens)] if sequence.top_logprobs else [],
            tokens=self._spellings(tokens) if sequence.log_probs else [],
        )

    def _text(self, tokens: list[int]) -> str:
        if self._stream is not None and self.stopped_at is not None:
            return self._stream.text[: self.stopped_at]
        text = self._codec.decode(tokens)
        if self._stream is not None and not text.startswith(self._stream.text):
            # Bytes that are no text made the decoder spell earlier ones differently: keep the text that was sent.
            return self._stream.text
        return text

    def _spellings(self, tokens: list[int]) -> list[str]:
        prompt = self._new_sequence.prompt.tokens if self._new_sequence.sequence.echo else []
        return [self._codec.spell(token) for token in [*prompt, *tokens]]
