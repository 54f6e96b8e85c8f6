"""Defines the bodies of OpenAI's requests; each value is checked once.

https://platform.openai.com/docs/api-reference: what changes an answer and cannot be done here is refused, what does not
is ignored, and a name that OpenAI does not know is a mistake. `top_k`, `min_tokens`, `ignore_eos` and what `AS_IS` adds
are vLLM's. Fields described as legacy are those of NeMo Export-Deploy's services, whose clients ask on the same paths
(https://github.com/NVIDIA-NeMo/Export-Deploy, nemo_deploy/service/fastapi_interface_to_pytriton{,_multimodal}.py and
nemo_deploy/*/*_deployable_ray.py).

Validation stops at the first mistakes of a body: the report of one takes far more memory than the text at fault.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model, model_validator
from pydantic_core import PydanticCustomError

from trition_repo_gen.runtime.common import wire

from .errors import UNSUPPORTED, ApiError

_MAX_INT = 2**31 - 1

_Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
_StopWord = Annotated[str, Field(min_length=1)]
type _List[T] = Annotated[list[T], Field(fail_fast=True)]
"""A list of which only the first invalid element is reported."""
_Json = Any
"""Any JSON value; pydantic's `JsonValue` would visit every element and report each that is too deep."""
_LEGACY = "Legacy, of NeMo Export-Deploy: "


def _legacy(text: str) -> Any:
    """Return a field for older clients; `text` says what it means."""
    return Field(default=None, description=_LEGACY + text, json_schema_extra={"deprecated": True})


_Image = Annotated[str, Field(pattern=r"^(?i:data:|https?://|[A-Za-z0-9+/=\s]+$)")]
"""An image as NeMo's services take it: a `data:` URI, a URL, or base64 alone."""
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
"""Unsupported fields that would change an answer, and the values with which they change nothing."""


class StreamOptions(BaseModel):
    """What a stream sends besides its text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


def _annotation(tensor: wire.Input) -> Any:
    """Return the type of a parameter in a body, with the bounds of the wire."""
    if isinstance(tensor, wire.Integer):
        return Annotated[int, Field(ge=tensor.least, le=tensor.most)] | None
    if isinstance(tensor, wire.Number):
        bounds: dict[str, Any] = {"ge": tensor.least, "gt": tensor.above, "le": tensor.most}
        return Annotated[float, Field(**{name: b for name, b in bounds.items() if math.isfinite(b)})] | None
    return _Json


AS_IS = tuple(tensor for tensor in wire.INPUTS if tensor.rest and not tensor.translated)
"""Parameters that mean the same in REST and on the wire; their fields are derived from the wire's table."""
_AsIs = create_model(
    "_AsIs", **{tensor.rest: (_annotation(tensor), Field(default=None, description=tensor.help)) for tensor in AS_IS}
)  # type: ignore[call-overload]


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

    random_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = _legacy("seed.")
    max_batch_size: _Json = _legacy("no effect.")
    apply_chat_template: _Json = _legacy("no effect; the path says whether there is a chat template.")

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
        # pydantic's own extra="forbid" would report all of them.
        known = cls.model_fields
        for name in body if isinstance(body, dict) else ():
            if name not in known:
                # JSON can contain half of a surrogate pair, which neither pydantic nor a response can encode.
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

    @model_validator(mode="after")
    def _take_the_seeds_older_name(self) -> Self:
        if self.random_seed is not None:
            if self.seed not in (None, self.random_seed):
                raise PydanticCustomError(
                    UNSUPPORTED, "{name} is the older name of seed; send one of them", {"name": "random_seed"}
                )
            self.seed = self.random_seed
        return self

    @property
    def stop_words(self) -> list[str]:
        """The texts that end the answer, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def choices(self) -> int:
        """The number of answers per prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """The body of `POST /v1/completions`."""

    prompt: str | _List[str] | _List[int] | _List[_List[int]]
    prompts: _Json = _legacy("prompt.")
    image: _Image | Literal[""] | None = _legacy(
        "the prompt's image: a data: URI, a URL that the operator allows, or base64."
    )
    images: _List[_Image] | None = _legacy("for each prompt its image.")
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: _Json = None
    best_of: _Json = None

    @model_validator(mode="before")
    @classmethod
    def _take_the_prompts_older_name(cls, body: Any) -> Any:
        if isinstance(body, dict) and "prompt" not in body and body.get("prompts") is not None:
            return {**body, "prompt": body["prompts"]}
        return body

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if self.max_tokens == 0 and not (self.echo and self.logprobs is not None):
            message = "{name} has to be greater than or equal to 1, or 0 with echo and logprobs"
            raise PydanticCustomError(UNSUPPORTED, message, {"name": "max_tokens"})
        return self

    def images_of(self, prompts: int) -> list[str | None]:
        """Return one image, or None, for each of `prompts` prompts.

        Raises:
            ApiError: the numbers of images and prompts differ.
        """
        if self.images is not None and self.image is None:
            if len(self.images) not in (0, prompts):
                raise ApiError(
                    400,
                    f"There are {len(self.images)} images for {prompts} prompts; send one for each.",
                    param="images",
                )
            return [*self.images] or [None] * prompts
        return [self.image or None] * prompts


class ImageUrl(BaseModel):
    """The place of an image: a `data:` URI, or a URL, which the model's operator has to allow."""

    url: Annotated[str, Field(pattern=r"^(?i:data:|https?://)")]
    detail: str | None = None


class TextPart(BaseModel):
    """A piece of text within a message."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image within a message."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[ImageUrl, Tag("object")]
        | Annotated[_Image, Tag("text"), Field(description=_LEGACY + "the image itself.")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "object"),
    ]

    @property
    def source(self) -> str:
        """A `data:` URI, a URL or base64."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class LegacyImagePart(BaseModel):
    """Legacy, of NeMo Export-Deploy: an image within a message."""

    type: Literal["image"]
    image: _Image = Field(description=_LEGACY + "a data: URI, a URL that the operator allows, or base64.")

    @property
    def source(self) -> str:
        """A `data:` URI, a URL or base64."""
        return self.image


Part = Annotated[TextPart | ImagePart | LegacyImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """A turn of a conversation; further fields go to the chat template unchanged."""

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
