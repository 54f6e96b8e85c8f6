"""The run-time settings of a deployment: a typed view over the `parameters` of config.pbtxt.

Standard library only: Triton's stub, the ranks and the command line all read settings with it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from .checkpoint_kinds import CheckpointKindName

Dtype = Literal["float16", "bfloat16", "float32"]
Switch = Literal["auto", "on", "off"]
"""auto: on where there is a GPU."""


def is_on(switch: Switch, *, on_gpu: bool) -> bool:
    """Return what a switch means where there is a GPU, or none."""
    return switch == "on" or (switch == "auto" and on_gpu)


def cuda_graphs_obstacle(*, stages: int, experts: int) -> str | None:
    """Return what a layout or a model has that keeps decoding steps from being recorded as CUDA graphs.

    A stage after the first reads its input from memory that is another's at the next step (megatron-core 0.19.2,
    transformer_block.py:576, `input_tensor`); the exchange of tokens between experts asks the host how many there are
    (moe/token_dispatcher.py, `preprocess`).
    """
    return "more than one pipeline stage" if stages > 1 else "a mixture of experts" if experts else None


class SettingsError(ValueError):
    """A parameter of config.pbtxt is missing, unknown or of the wrong type."""


class _Parameters:
    """A dataclass whose fields are parameters of config.pbtxt: the key is the field's name in capitals."""

    def to_parameters(self) -> dict[str, str]:
        """Return the settings as config.pbtxt holds them: upper-case keys, string values."""
        return {field.name.upper(): _write(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Self:
        """Read the settings; a missing parameter has its default.

        Raises:
            SettingsError: a key is unknown, a value has the wrong type, or one without a default is missing.
        """
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(parameters) - {name.upper() for name in hints})
        if unknown:
            raise SettingsError(f"config.pbtxt has a parameter {unknown[0]!r} that nothing reads; remove it.")
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING and not parameters.get(field.name.upper()):
                raise SettingsError(f"config.pbtxt has no parameter {field.name.upper()!r}; it has to be there.")
        values = {
            name: _read(name.upper(), parameters[name.upper()], hint)
            for name, hint in hints.items()
            if name.upper() in parameters
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Settings(_Parameters):
    """What the ranks need to know.

    Sizes are counts of ranks, layers, tokens or requests; `kv_cache_gib` is in GiB per rank.
    """

    checkpoint: str
    """Path of the checkpoint's `iter_*` folder, of a NeMo 2.0 one's root."""
    checkpoint_kind: CheckpointKindName = "megatron_bridge"
    tokenizer: str = ""
    """Path or hub name; empty, or no such parameter, means the tokenizer that the checkpoint holds."""
    params_dtype: Dtype = "bfloat16"
    multimodal: bool = False
    """Whether prompts come with images; the fields that say so are read only then."""
    processor: str = ""
    """Multimodal: folder or hub name of the image processor; empty means the one that the checkpoint holds."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    expert_parallel_size: int = 1
    expert_tensor_parallel_size: int = 1
    sequence_parallel: bool = False
    num_layers_in_first_pipeline_stage: int = 0
    """0 means an even split, here and below."""
    num_layers_in_last_pipeline_stage: int = 0
    account_for_embedding_in_pipeline_split: bool = False
    account_for_loss_in_pipeline_split: bool = False
    num_gpus: int = 1
    """GPUs (on a CPU: rank processes) per node; what is beyond one replica's need runs further replicas."""
    num_nodes: int = 1

    max_sequence_length: int = 4096
    """Prompt and new tokens together."""
    max_requests: int = 256
    """Sequences that one replica decodes at the same time; more wait."""
    max_queue_size: int = 1024
    """Requests that may wait while the engines are full; 0 means any number."""
    queue_timeout: float = 0.0
    """Seconds that a request may wait, unless it says otherwise; 0 means for ever."""
    priority_levels: int = 1
    """Requests that wait go in by their parameter `queue_priority`, from 1, which is first, to this."""
    default_priority: int = 0
    """Of requests that do not say; 0 means the level in the middle."""
    kv_cache_gib: float = 0.0
    """0 means by the next two on a GPU, what `max_requests` can fill (at most 1 GiB) on a CPU."""
    kv_cache_fraction: float = 0.0
    """Of the GPU memory that is free after loading; 0 means by the next one."""
    gpu_memory_utilization: float = 0.9
    """The share of a GPU's memory that may be in use: what weights and working memory leave of it is KV cache."""
    enable_prefix_caching: bool = False
    """Keep the KV blocks of finished sequences for prompts that begin alike, as long as nothing else needs them."""
    enable_chunked_prefill: bool = False
    """Take long prompts in over several steps, so that they do not hold up the sequences that run."""
    chunked_prefill_size: int = 2048
    """Tokens of such a step at the most, those of running sequences among them."""
    inference_batch_times_seqlen_threshold: int = 1000
    """Multimodal, with pipeline stages: a step of more tokens than this is split into micro-batches of so many."""
    fused_layers: Switch = "auto"
    """Compute dense layers in fewer kernels than Megatron Core does."""
    async_scheduling: Switch = "auto"
    """Start a decoding step before the host is done with the one before it."""
    enable_flash_decode: bool = False
    enable_cuda_graphs: bool = False
    legacy_checkpoint: bool = False
    """Load although Transformer Engine's `_extra_state` entries are missing or unexpected."""
    debug_mode: bool = False

    allow_image_urls: str = ""
    """Multimodal: hosts whose images are fetched, patterns with commas between; empty means none."""
    max_images: int = 8
    """Multimodal: per prompt."""
    max_image_mib: float = 16.0
    """Multimodal: MiB of one encoded image."""
    max_image_pixels: int = 33_554_432
    """Multimodal: pixels of one image, which its header says before anything is decoded."""

    rank_python: str = "python3"
    """The interpreter whose environment has Megatron, or NeMo."""
    max_restarts: int = 3
    """How many times the group of ranks is started again after one of them died."""
    start_timeout: int = 1800
    """Seconds until a group of ranks that is not ready counts as dead."""
    rendezvous: str = ""
    """HOST:PORT where the nodes meet; only with more than one node."""

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.num_gpus * self.num_nodes

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one replica of the dense layers."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    @property
    def data_parallel_size(self) -> int:
        """Replicas of the dense layers; each takes requests of its own."""
        return self.world_size // self.model_parallel_size


@dataclass(frozen=True, kw_only=True)
class StreamSettings(_Parameters):
    """What the streaming model needs to know."""

    stream_of: str
    """The model whose ranks it uses."""
    start_timeout: int = 1800
    """Seconds until that model has to take requests."""
    multimodal: bool = False
    """Whether prompts come with images; these are that model's settings, and its ranks heed theirs in any case."""
    allow_image_urls: str = ""
    max_images: int = 8
    max_image_mib: float = 16.0
    max_image_pixels: int = 33_554_432


def _write(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(key: str, text: str, hint: Any) -> Any:
    if isinstance(hint, types.GenericAlias) or typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise SettingsError(f"Parameter {key} is {text!r}; it has to be one of {', '.join(choices)}.")
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise SettingsError(f"Parameter {key} is {text!r}; it has to be true or false.")
        return text == "true"
    try:
        value = hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise SettingsError(f"Parameter {key} is {text!r}; it has to be {kind}.") from None
    if hint in (int, float) and not value >= 0:
        raise SettingsError(f"Parameter {key} is {text!r}; it must not be negative.")
    return value
