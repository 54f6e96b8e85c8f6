"""A deployment: everything that the templates need, checked once."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.runtime.settings import Settings, StreamSettings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")


class Deployment(BaseModel):
    """One version of one model in one repository."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: str
    model_version: int = Field(default=1, ge=1)
    model_repository: Path
    max_batch_size: int = Field(default=8, ge=1)
    """Rows in one request; the batcher puts no more into one call of the stub either."""
    stream: bool = True
    """Whether a twin streams the answers."""
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

    @property
    def model_folder(self) -> Path:
        """Where config.pbtxt lies."""
        return self.model_repository / self.model_name

    @property
    def stream_name(self) -> str:
        """The name of the twin that streams."""
        return f"{self.model_name}_stream"

    @property
    def stream_folder(self) -> Path:
        """Where the twin's config.pbtxt lies."""
        return self.model_repository / self.stream_name

    @property
    def stream_settings(self) -> StreamSettings:
        """The twin's settings."""
        settings = self.settings
        return StreamSettings(
            stream_of=self.model_name,
            multimodal=settings.multimodal,
            allow_image_urls=settings.allow_image_urls,
            max_images=settings.max_images,
            max_image_mib=settings.max_image_mib,
            max_image_pixels=settings.max_image_pixels,
            start_timeout=settings.start_timeout,
        )
