"""The bodies of OpenAI's requests, each value checked once.

https://platform.openai.com/docs/api-reference: what changes an answer and cannot be done here is refused, what does not
is ignored, and a name that OpenAI does not know is a mistake. `top_k`, `min_tokens`, `ignore_eos` and what `AS_IS` adds
are vLLM's.

Of a body's many mistakes only the first are looked for: each takes far more memory than the text that it is about.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from trition_repo_gen.runtime.common import wire

from .errors import UNSUPPORTED

_MAX_INT = 2**31 - 1

_Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
_StopWord = Annotated[str, Field(min_length=1)]
type _List[T] = Annotated[list[T], Field(fail_fast=True)]
"""A list whose first unfit element is the only one that is told of."""
_Json = Any
"""Whatever JSON can say; pydantic's `JsonValue` would look at every element, and tell of each that is too deep."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "prediction": (),
}
"""Fields that change an answer in a way that is not supported, and the values with which they do not."""


class StreamOptions(BaseModel):
    """What a stream tells besides its text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


def _annotation(tensor: wire.Input) -> Any:
    """Return a parameter's type in a body, with the bounds that the wire has for it."""
    if isinstance(tensor, wire.Integer):
        return Annotated[int, Field(ge=tensor.least, le=tensor.most)] | None
    if isinstance(tensor, wire.Number):
        bounds: dict[str, Any] = {"ge": tensor.least, "gt": tensor.above, "le": tensor.most}
        return Annotated[float, Field(**{name: b for name, b in bounds.items() if math.isfinite(b)})] | None
    return _Json


AS_IS = tuple(tensor for tensor in wire.INPUTS if tensor.rest and not tensor.translated)
"""Parameters that mean the same in REST and on the wire: a body's fields are made from the wire's table."""
_AsIs = create_model("_AsIs", **{tensor.rest: (_annotation(tensor), None) for tensor in AS_IS})  # type: ignore[call-overload]


class _Request(_AsIs):  # type: ignore[misc, valid-type]
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: _StopWord | Annotated[list[_StopWord], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=_MAX_INT)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MAX_INT)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_MAX_INT)] | None = None
    ignore_eos: bool | None = None

    user: _Json = None
    store: _Json = None
    metadata: _Json = None
    service_tier: _Json = None
    safety_identifier: _Json = None
    prompt_cache_key: _Json = None
    prompt_cache_retention: _Json = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, body: Any) -> Any:
        # pydantic's own extra="forbid" would tell of all of them.
        known = cls.model_fields
        for name in body if isinstance(body, dict) else ():
            if name not in known:
                # JSON can spell half a character, which neither pydantic nor a response can repeat.
                spelt = {"name": name.encode(errors="backslashreplace").decode()}
                raise PydanticCustomError(UNSUPPORTED, "Unrecognized request argument supplied: {name}", spelt)
        return body

    @model_validator(mode="after")
    def _refuse_what_is_not_supported(self) -> Self:
        for name, neutral in _NEUTRAL.items():
            value = getattr(self, name, None)
            if value is not None and value not in neutral:
                raise PydanticCustomError(UNSUPPORTED, "{name} is not supported", {"name": name})
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                UNSUPPORTED, "{name} is only allowed when stream is true", {"name": "stream_options"}
            )
        return self

    @property
    def stop_words(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """The body of `POST /v1/completions`."""

    prompt: str | _List[str] | _List[int] | _List[_List[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: _Json = None
    best_of: _Json = None

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if self.max_tokens == 0 and not (self.echo and self.logprobs is not None):
            message = "{name} has to be greater than or equal to 1, or 0 with echo and logprobs"
            raise PydanticCustomError(UNSUPPORTED, message, {"name": "max_tokens"})
        return self


class ImageUrl(BaseModel):
    """Where an image is: a `data:` URI; whether the model takes anything else is the model's to say."""

    url: Annotated[str, Field(pattern=r"^(?i:data:|https?://)")]
    detail: str | None = None


class TextPart(BaseModel):
    """A piece of text within a message."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image within a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """A turn of a conversation; further fields go to the chat template as they are."""

    model_config = ConfigDict(extra="allow")
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | _List[Part] | None = None


class ChatRequest(_Request):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[_List[Message], Field(min_length=1)]
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: _Json = None
    tool_choice: _Json = None
    functions: _Json = None
    function_call: _Json = None
    parallel_tool_calls: _Json = None
    response_format: _Json = None
    modalities: _Json = None
    audio: _Json = None
    web_search_options: _Json = None
    prediction: _Json = None
    reasoning_effort: _Json = None
    verbosity: _Json = None
