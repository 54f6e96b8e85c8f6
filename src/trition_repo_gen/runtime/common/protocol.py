"""The messages between Triton's stub and the ranks: msgpack over ZeroMQ, a frame for one or for a list of them.

The stub sends `Generate` and `Cancel` to a group's leader. Every rank says `Hello`; leaders send the rest.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import msgpack

from .wire import default

FRONTEND_VARIABLE = "TRGEN_FRONTEND"
"""Environment variable with the stub's ZeroMQ endpoint."""
SETTINGS_VARIABLE = "TRGEN_SETTINGS"
"""Environment variable with the deployment's parameters as JSON."""
REMOTE_FRONTEND_VARIABLE = "TRGEN_REMOTE_FRONTEND"
"""Environment variable with the stub's endpoint for ranks of other nodes; only with several nodes."""
RUN_FOLDER_VARIABLE = "TRGEN_RUN_FOLDER"
"""Environment variable with the folder of sockets and logs of this start; only on the stub's node."""

ErrorKind = Literal["INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"]
"""Names of `pb_utils.TritonError`'s codes; HTTP answers 400, 503, 499 and 500."""

FinishReason = Literal["stop", "length"]


_GREEDY_TEMPERATURE = 1e-5
"""Lower temperatures leave no token but the most likely, and float32 overflows at the lowest; as in vLLM."""


@dataclass(frozen=True, kw_only=True)
class SequenceRequest:
    """One prompt and how to continue it; every value holds for this sequence alone. `wire.INPUTS` describes each.

    `prompt` is text, or a JSON list of chat messages when `chat` is set. `max_length` counts new tokens. `top_k` 0
    and `top_p` 0 switch the filter off; `top_k` 1 or a `temperature` next to 0 is greedy. `seed` is a 63-bit number.
    No token that would end the sequence is taken before there are `min_length`, with `ignore_eos` none at all. With
    `stream` its text is sent as it grows.
    `images` are encoded images (PNG, JPEG …) or, as text, URLs that may be fetched.
    """

    prompt: str
    chat: bool = False
    max_length: int = default("max_length")
    temperature: float = default("temperature")
    top_k: int = default("top_k")
    top_p: float = default("top_p")
    min_p: float = default("min_p")
    seed: int = 0
    repetition_penalty: float = default("repetition_penalty")
    presence_penalty: float = default("presence_penalty")
    frequency_penalty: float = default("frequency_penalty")
    logit_bias: dict[int, float] = field(default_factory=dict)
    log_probs: bool = False
    top_logprobs: int = default("n_top_logprobs")
    echo: bool = False
    stop_words: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    min_length: int = default("min_length")
    ignore_eos: bool = False
    stream: bool = False
    images: list[bytes | str] = field(default_factory=list)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken at every step."""
        return self.top_k == 1 or self.temperature < _GREEDY_TEMPERATURE


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a sequence. `log_probs` and `top_logprobs` have one entry a token; see wire names in config.pbtxt.

    `tokens` is how each token is spelt, where log-probabilities were asked for: with `echo` the prompt's as well, one
    more than there are log-probabilities, for the first token has none.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PromptLimit:
    """How long a prompt may be: one of more than `max_bytes` has more than `max_tokens`, whatever its tokens are."""

    max_bytes: int
    max_tokens: int


@dataclass(frozen=True)
class Hello:
    """A rank lives. `attempt` counts the restarts; `local` says whether it runs on the stub's node."""

    rank: int
    pid: int
    attempt: int
    local: bool
    local_rank: int


@dataclass(frozen=True)
class Progress:
    """What a rank is doing while it starts."""

    rank: int
    text: str


@dataclass(frozen=True)
class Fatal:
    """A rank cannot start: an exception while loading, which the same checkpoint and settings would meet again."""

    rank: int
    sentence: str


@dataclass(frozen=True)
class Ready:
    """A group's leader takes requests.

    It comes from the leader's inbox, a socket apart from the one of its rank's `Hello`, whose identity is `connection`.
    `groups` is how many such leaders there are in all; `slots` sequences run at once in this one. A prompt of more than
    `max_prompt_bytes` bytes is longer than the sequence length whatever its tokens are.
    """

    connection: bytes
    groups: int
    slots: int
    max_sequence_length: int
    max_prompt_bytes: int

    @property
    def prompt_limit(self) -> PromptLimit:
        """How long a prompt may be."""
        return PromptLimit(self.max_prompt_bytes, self.max_sequence_length)


@dataclass(frozen=True)
class Generate:
    """Continue a sequence; the answer carries the same `id`."""

    id: int
    sequence: SequenceRequest


@dataclass(frozen=True)
class Cancel:
    """Cancel a sequence: its client is gone, or another sequence of its request was refused."""

    id: int


@dataclass(frozen=True)
class Deltas:
    """What a step added to sequences that stream: (id, new text) each."""

    sequences: list[tuple[int, str]]


@dataclass(frozen=True)
class Done:
    """A sequence is finished.

    `rest` is the part of `answer.text` that its `Deltas` did not carry; `decode_seconds` are the seconds from
    its first token to its last.
    """

    id: int
    answer: Answer
    rest: str = ""
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Usage:
    """How full a group's KV cache is, from 0 to 1; sent now and then."""

    kv_cache: float


@dataclass(frozen=True)
class Refused:
    """A sequence cannot be continued; `message` is one sentence for the client."""

    id: int
    kind: ErrorKind
    message: str


_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(Hello, Progress, Fatal, PromptLimit, Ready, Generate, Cancel, Deltas, Done, Refused, Usage),
        *(SequenceRequest, Answer),
    )
}


def encode(message: Any) -> bytes:
    """Pack a message, or a list of messages and plain values.

    Half of a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark.
    """
    packed: bytes = msgpack.packb(message, default=_to_plain, unicode_errors="replace")
    return packed


def decode(frame: bytes) -> Any:
    """Unpack what `encode` packed."""
    return msgpack.unpackb(frame, object_hook=_from_plain, strict_map_key=False)


def register(kind: type[Any]) -> type[Any]:
    """Class decorator: let `encode` and `decode` carry another dataclass."""
    _TYPES[kind.__name__] = kind
    return kind


_TYPE_KEY = "\0type"


def _to_plain(value: Any) -> dict[str, Any]:
    return {_TYPE_KEY: type(value).__name__, **vars(value)}


def _from_plain(value: dict[str, Any]) -> Any:
    name = value.pop(_TYPE_KEY, None)
    return value if name is None else _TYPES[name](**value)
