"""Turn an engine's finished sequences into answers, on the leader rank of each replica."""

from ...common.protocol import Answer, Deltas, Done, FinishReason, Refused, SequenceRequest
from ..engines.api import Finished, StepResult, end_ids
from ..engines.text import TextCodec
from .broadcast import EndSequence, NewSequence
from .stop_words import StopWords


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
        kind = _GrowingText if is_watched(new_sequence.sequence) else _SequenceText
        self._sequences[new_sequence.id] = kind(new_sequence, self._codec)

    def forget(self, request_id: int) -> None:
        """Drop a cancelled sequence that ended without a result."""
        self._sequences.pop(request_id, None)

    def after_step(self, result: StepResult) -> "list[Deltas | Done | Refused | EndSequence]":
        """Return what to report: new text, sequences to end because they reached a stop word, and answers."""
        messages: list[Deltas | Done | Refused | EndSequence] = []
        deltas = []
        for request_id, tokens in result.tokens.items():
            sequence = self._sequences[request_id]
            assert isinstance(sequence, _GrowingText)
            sequence.push(tokens)
            if request_id in result.finished:
                continue
            if sequence.stopped:
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
        answer = sequence.answer(finished, self._finish_reason(sequence, finished))
        return Done(
            sequence.id, answer, sequence.rest_of(answer.text) if sequence.streams else "", finished.decode_seconds
        )

    def _finish_reason(self, sequence: "_SequenceText", finished: Finished) -> FinishReason:
        if sequence.request.max_length == 0:
            return "length"
        ended = bool(finished.tokens) and finished.tokens[-1] in end_ids(sequence.request, self._eos_ids)
        return "stop" if sequence.stopped or ended or not finished.out_of_tokens else "length"


class _SequenceText:
    """A sequence whose text is made when it has ended."""

    stopped = False
    """Whether a stop word was met."""

    def __init__(self, new_sequence: NewSequence, codec: TextCodec):
        self.id = new_sequence.id
        self.request = new_sequence.sequence
        self.streams = self.request.stream
        self._prompt = new_sequence.prompt
        self._codec = codec

    def rest_of(self, text: str) -> str:
        """Return what of the whole text the client does not have yet."""
        return text

    def answer(self, finished: Finished, reason: FinishReason) -> Answer:
        """Return what the client gets."""
        request = self.request
        tokens = self._kept(finished.tokens)
        prompt = finished.prompt_log_probs if request.echo else []
        prompt_top = finished.prompt_top_logprobs if request.echo else []
        text = self._text(tokens)
        text = self._prompt.text + text if request.echo else text
        return Answer(
            text=text,
            finish_reason=reason,
            prompt_tokens=len(self._prompt.tokens),
            completion_tokens=len(tokens),
            log_probs=prompt + finished.log_probs[: len(tokens)] if request.log_probs else [],
            top_logprobs=prompt_top + finished.top_logprobs[: len(tokens)] if request.top_logprobs else [],
            tokens=self._spellings(tokens, text) if request.log_probs else [],
        )

    def _kept(self, tokens: list[int]) -> list[int]:
        return tokens[: self.request.max_length]  # the engine samples one where none is wanted

    def _text(self, tokens: list[int]) -> str:
        return self._codec.decode(tokens, self._prompt.tokens)

    def _spellings(self, tokens: list[int], text: str) -> list[str]:
        """Return how tokens are spelt, with `echo` the prompt's as well, whose first may lack a space in the text."""
        spell_text = self._codec.vocabulary.spell_text
        if self.request.echo:
            return spell_text([*self._prompt.tokens, *tokens], text)
        return [self._codec.spell(token) for token in tokens]


class _GrowingText(_SequenceText):
    """A sequence whose text is needed after every step."""

    def __init__(self, new_sequence: NewSequence, codec: TextCodec):
        super().__init__(new_sequence, codec)
        self._stream = codec.stream(self._prompt.tokens)
        self._special = codec.vocabulary.special
        self._stop_words = StopWords(self.request.stop_words, self._special.values())
        self._pieces: list[str] = []
        self._length = 0
        """Characters of `_pieces`, the answer."""
        self._tokens = 0
        self._told = 0
        """Characters of prompt (where it is echoed) and answer that the client has."""
        self._untold = self._prompt.text if self.request.echo else ""
        """What follows them, as far as it is known."""

    def push(self, tokens: list[int]) -> None:
        """Add tokens; those after a stop word do not count."""
        for token in tokens:
            if self.stopped or self._tokens == self.request.max_length:
                return
            self._tokens += 1
            piece = self._stream.push(token)
            self._pieces.append(piece)
            self._untold += piece
            self._length += len(piece)
            # As in vLLM, a stop word counts if it ends after the first `min_length` tokens.
            may_stop = self._tokens > self.request.min_length
            stopped_at = self._stop_words.push(piece, self._special.get(token, ""), may_stop=may_stop)
            if stopped_at is not None:
                self.stopped = True
                self._cut(stopped_at)

    def _cut(self, length: int) -> None:
        """Leave only so many characters of the answer."""
        self._untold = self._untold[: len(self._untold) - (self._length - length)]
        self._pieces = ["".join(self._pieces)[:length]]
        self._length = length

    def take_text(self) -> str:
        """Return the text that cannot change any more and was not sent before."""
        certain = self._length if self.stopped or not self.request.stop_words else self._stop_words.certain
        new = self._untold[: len(self._untold) - (self._length - certain)]
        self._untold = self._untold[len(new) :]
        self._told += len(new)
        return new

    def rest_of(self, text: str) -> str:
        """See `_SequenceText.rest_of`."""
        return text[self._told :]

    def _kept(self, tokens: list[int]) -> list[int]:
        return super()._kept(tokens)[: self._tokens]

    def _text(self, tokens: list[int]) -> str:
        return "".join(self._pieces) + ("" if self.stopped else self._stream.end())
