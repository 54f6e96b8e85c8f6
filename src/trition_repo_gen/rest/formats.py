"""Writes answers in OpenAI's shape: JSON documents and server-sent events."""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from trition_repo_gen.runtime.common import wire

from .answers import Finish, TextPiece
from .errors import ApiError
from .logprobs import chat_logprobs, completion_logprobs

_DONE = b"data: [DONE]\n\n"


class Format(ABC):
    """Writes the answer to one request.

    Args:
        model: the model's name.
        choices: answers per prompt.
        fields: names of the body's fields by those of tensors, where they are not the usual ones.
    """

    fields: ClassVar[Mapping[str, str]] = {tensor.name: tensor.rest for tensor in wire.INPUTS if tensor.rest}
    id_prefix: str
    document_kind: str
    event_kind: str

    def __init__(self, model: str, choices: int, fields: Mapping[str, str] | None = None) -> None:
        self._choices = choices
        self._fields = {**self.fields, **(fields or {})}
        self._head = {"id": f"{self.id_prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def explain(self, error: ApiError) -> ApiError:
        """Return an error in the words of the request's body."""
        return error.for_fields(self._fields)

    @abstractmethod
    def _choice(self, text: str, ending: Finish) -> dict[str, Any]:
        """Return a choice of a document, without index and finish reason."""

    @abstractmethod
    def _delta(self, text: str) -> str:
        """Return the JSON members that carry the text in a choice of a stream."""

    @abstractmethod
    def _last_delta(self, text: str, whole: str, ending: Finish) -> dict[str, Any]:
        """Return the last choice of a stream, without index and finish reason; `whole` is the sequence's full text."""

    def document(self, pieces: Iterable[TextPiece]) -> bytes:
        """Return the answer of a request that does not stream."""
        choices, endings = [], []
        for piece in pieces:
            assert piece.ending is not None
            endings.append(piece.ending)
            choice = {"index": piece.sequence} | self._choice(piece.text, piece.ending)
            choices.append(choice | {"finish_reason": piece.ending.finish_reason})
        document = {**self._head, "object": self.document_kind, "choices": choices, "usage": self._usage(endings)}
        return _json(document).encode()

    async def events(self, pieces: AsyncGenerator[TextPiece], *, include_usage: bool) -> AsyncGenerator[bytes]:
        """Yield the server-sent events of a stream; closing the generator closes `pieces`.

        Raises:
            ApiError: only before the first event; a later error is sent as an event.
        """
        # Encode the constant part once: this runs for every token of every client.
        head = _json(self._head | {"object": self.event_kind})[:-1]
        tail = ',"usage":null}\n\n' if include_usage else "}\n\n"
        endings: dict[int, Finish] = {}
        texts: dict[int, list[str]] = {}
        async with aclosing(pieces):
            try:
                async for piece in pieces:
                    start = ""
                    if piece.sequence not in texts:
                        texts[piece.sequence] = []
                        start = self._opening(piece.sequence, head, tail)
                    texts[piece.sequence].append(piece.text)
                    if piece.ending is None:
                        choice = f'"index":{piece.sequence},{self._delta(piece.text)},"logprobs":null'
                        choice = f'{{{choice},"finish_reason":null}}'
                    else:
                        endings[piece.sequence] = piece.ending
                        last = self._last_delta(piece.text, "".join(texts[piece.sequence]), piece.ending)
                        last = {"index": piece.sequence, **last, "finish_reason": piece.ending.finish_reason}
                        choice = _json(last)
                    yield f'{start}data: {head},"choices":[{choice}]{tail}'.encode()
            except ApiError as error:
                if not texts:
                    raise self.explain(error) from None
                yield f"data: {_json(self.explain(error).body())}\n\n".encode()
                return
        if include_usage:
            usage = _json(self._usage([endings[sequence] for sequence in sorted(endings)]))
            yield f'data: {head},"choices":[],"usage":{usage}}}\n\n'.encode()
        yield _DONE

    def _opening(self, sequence: int, head: str, tail: str) -> str:
        """Return the event that precedes a sequence's first text; empty if there is none."""
        return ""

    def _usage(self, endings: list[Finish]) -> dict[str, int]:
        # The answers to one prompt are adjacent; count its tokens once.
        prompt = sum(ending.prompt_tokens for ending in endings[:: self._choices])
        completion = sum(ending.completion_tokens for ending in endings)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class CompletionFormat(Format):
    """The answer of `/v1/completions`."""

    fields: ClassVar[Mapping[str, str]] = {**Format.fields, "n_top_logprobs": "logprobs"}
    id_prefix = "cmpl"
    document_kind = event_kind = "text_completion"

    def _choice(self, text: str, ending: Finish) -> dict[str, Any]:
        return {"text": text, "logprobs": completion_logprobs(text, ending)}

    def _delta(self, text: str) -> str:
        return f'"text":{_json(text)}'

    def _last_delta(self, text: str, whole: str, ending: Finish) -> dict[str, Any]:
        return {"text": text, "logprobs": completion_logprobs(whole, ending)}


class ChatFormat(Format):
    """The answer of `/v1/chat/completions`."""

    fields: ClassVar[Mapping[str, str]] = {**Format.fields, wire.PROMPTS.name: "messages", wire.IMAGES.name: "messages"}
    id_prefix = "chatcmpl"
    document_kind = "chat.completion"
    event_kind = "chat.completion.chunk"

    def _choice(self, text: str, ending: Finish) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": chat_logprobs(ending)}

    def _delta(self, text: str) -> str:
        return f'"delta":{{"content":{_json(text)}}}'

    def _last_delta(self, text: str, whole: str, ending: Finish) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}, "logprobs": chat_logprobs(ending)}

    def _opening(self, sequence: int, head: str, tail: str) -> str:
        choice = f'"index":{sequence},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null'
        return f'data: {head},"choices":[{{{choice}}}]{tail}'


# `json.dumps` with arguments creates an encoder at every call.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
