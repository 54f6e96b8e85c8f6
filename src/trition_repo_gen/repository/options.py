"""What a user may ask of a build. The command line fills it in; its defaults are the command's defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trition_repo_gen.runtime.common.layout import Layout
from trition_repo_gen.runtime.common.parameters import Multimodal, TextOnly
from trition_repo_gen.runtime.common.settings import (
    Dtype,
    EngineSettings,
    ImageLimits,
    KVCacheSettings,
    RankSettings,
    Settings,
)

MAX_BATCH_SIZE = 8
"""Sequences that one request may have, unless the user says otherwise."""
MULTIMODAL_MAX_BATCH_SIZE = 4
"""The same for a multimodal model."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(RankSettings, ImageLimits, KVCacheSettings, EngineSettings, Layout):
    """The options of `trgen build`: the settings that keep name and type, by inheritance, and these.

    `cli/_options.py` has the flags' names.
    """

    model_name: str
    """Name of the model in Triton."""
    any_checkpoint: Path | None = None
    """Checkpoint to serve; its kind is found by looking. Implies --multimodal for a NeMo 2.0 checkpoint."""
    megatron_checkpoint: Path | None = None
    """Megatron-Bridge checkpoint: its root or one of its iter_* folders."""
    nemo_checkpoint: Path | None = None
    """With --multimodal: NeMo 2.0 checkpoint, the folder that has context and weights."""
    checkpoint: Path | None = None
    """Same as --megatron-checkpoint; with --multimodal, as --nemo-checkpoint."""
    multimodal: bool = False
    """Serve a model that takes images."""
    tokenizer: TextOnly[str | None] = None
    """Folder or hub name of the tokenizer."""
    processor_name: Multimodal[str | None] = None
    """Folder or hub name of the image processor."""
    params_dtype: Dtype | None = None
    """Data type of weights and computation."""
    legacy_ckpt: bool = False
    """Load although Transformer Engine's extra states do not match."""

    model_version: int = 1
    """Version of the model, the name of its folder."""
    model_repository: Path = Path("model_repository")
    """Folder of models to write into."""
    no_stream: bool = False
    """Write no streaming model NAME_stream beside the model."""
    trtllm_alias: bool = False
    """Write NAME_trtllm beside the model, with the tensors that Triton's OpenAI frontend sends."""
    dry_run: bool = False
    """Print the files and config.pbtxt, write nothing."""
    force: bool = False
    """Replace another model, or one that trgen did not write."""

    inference_max_seq_length: int | None = None
    """Tokens of one sequence, prompt and new tokens together."""
    max_batch_size: int | None = None
    """Sequences that one request may have."""
    enable_flash_decode: TextOnly[bool] = False
    """Accepted, has no effect: the engine always decodes with FlashAttention on a GPU."""
    micro_batch_size: int | None = None
    """Accepted, has no effect: the engine forms a batch at every step."""
    gpu_memory_gib: float | None = None
    """Memory, in GiB, of the GPUs that will serve, to predict what fits."""
    allow_image_urls: Multimodal[list[str] | None] = None
    """Host whose images may be fetched, as in *.example.org; repeatable."""
    rank_python: str | None = None
    """Python of the environment that has Megatron, for NeMo 2.0 checkpoints NeMo."""

    def __new__(cls, **given: Any) -> Self:
        """Remember which options were given, also those that were given their default."""
        options = super().__new__(cls)
        object.__setattr__(options, "_given", frozenset(given))
        return options

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that were given."""
        names: frozenset[str] = getattr(self, "_given", frozenset())
        return names

    def with_changes(self, **values: Any) -> Self:
        """Return the options with some more given."""
        return type(self)(**({name: getattr(self, name) for name in self.given} | values))

    def without(self, *names: str) -> Self:
        """Return the options as if some had not been given."""
        return type(self)(**{name: getattr(self, name) for name in self.given.difference(names)})

    def settings(self, **values: Any) -> Settings:
        """Return the settings: the options of the same name and type, and `values`, which win."""
        return Settings.of(self, **values)
