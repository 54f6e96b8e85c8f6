"""A deployment: the checked values that the templates need."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.paths import unreadable_for_triton
from trition_repo_gen.repository.options import MAX_BATCH_SIZE
from trition_repo_gen.runtime.common import wire
from trition_repo_gen.runtime.common.settings import Settings, StreamSettings

StreamingKind = Literal["stream", "trtllm"]

_SUFFIXES: dict[StreamingKind, str] = {"stream": wire.STREAM_SUFFIX, "trtllm": wire.TRTLLM_SUFFIX}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")


class Deployment(BaseModel):
    """One version of one model in one repository."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: str
    model_version: int = Field(default=1, ge=1)
    model_repository: Path
    max_batch_size: int = Field(default=MAX_BATCH_SIZE, ge=1)
    """Sequences in one request; Triton's batcher puts no more into one call of the stub either."""
    stream: bool = True
    """Whether the streaming model NAME_stream is written."""
    trtllm_alias: bool = False
    """Whether the streaming model NAME_trtllm, with the tensors of TensorRT-LLM, is written."""
    settings: Settings

    @field_validator("model_name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            instead = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:121] or "model"
            raise RepositoryError(
                f"{name!r} is no name for a Triton model, which is a folder and a part of URLs: letters, digits, "
                f"'_', '-' and '.', 121 at most; write --model-name {instead}."
            )
        return name

    @field_validator("model_repository")
    @classmethod
    def _check_repository(cls, repository: Path) -> Path:
        if character := unreadable_for_triton(repository):
            raise RepositoryError(
                f"The path of the model repository, {str(repository.absolute())!r}, has {character!r}, which Triton's "
                "Python backend cannot read; write a --model-repository of ASCII letters and digits without spaces."
            )
        return repository

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, settings: Settings) -> Settings:
        if settings.default_priority > settings.priority_levels:
            raise RepositoryError(
                f"--default-priority is {settings.default_priority}, and --priority-levels {settings.priority_levels}; "
                "write a lower level, or more levels."
            )
        if settings.enable_chunked_prefill and settings.chunked_prefill_size < settings.max_requests:
            raise RepositoryError(
                f"--chunked-prefill-size is {settings.chunked_prefill_size}, but {settings.max_requests} sequences "
                "(--max-requests) may run at once, with a token each in every step; write at least that."
            )
        return settings

    @model_validator(mode="after")
    def _check_alias(self) -> Self:
        if self.trtllm_alias and self.settings.multimodal:
            raise RepositoryError("--trtllm-alias has no tensor for images; leave it out for a multimodal model.")
        return self

    @property
    def model_folder(self) -> Path:
        """The folder that holds config.pbtxt."""
        return self.model_repository / self.model_name

    @property
    def streaming_models(self) -> dict[StreamingKind, bool]:
        """The kinds of streaming models, which use this model's ranks, and whether each is written."""
        return {"stream": self.stream, "trtllm": self.trtllm_alias}

    def streaming_model_name(self, kind: StreamingKind) -> str:
        """Return a streaming model's name."""
        return self.model_name + _SUFFIXES[kind]

    def streaming_model_folder(self, kind: StreamingKind) -> Path:
        """Return the folder that holds a streaming model's config.pbtxt."""
        return self.model_repository / self.streaming_model_name(kind)

    @property
    def stream_settings(self) -> StreamSettings:
        """The streaming models' settings."""
        return StreamSettings.of(self.settings, stream_of=self.model_name)
