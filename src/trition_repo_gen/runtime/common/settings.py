"""The run-time settings of a deployment: a typed view over the `parameters` of config.pbtxt.

`Settings` inherits its groups. The options of a build inherit those that a user sets under the same name, so that name,
type, default and description of a setting stand here only: the command line's help and the comments of config.pbtxt
are these docstrings. Standard library only: Triton's stub, the ranks and the command line all read settings with it.
"""

from dataclasses import dataclass
from typing import Literal

from .checkpoint_kinds import CheckpointKindName
from .layout import Layout
from .parameters import Multimodal, Parameters, SettingsError, TextOnly

__all__ = [
    "Dtype",
    "EngineSettings",
    "ImageLimits",
    "ImageSettings",
    "KVCacheSettings",
    "ModelSettings",
    "RankSettings",
    "Settings",
    "SettingsError",
    "SharedRanks",
    "StreamSettings",
    "Switch",
    "cuda_graphs_obstacle",
    "is_on",
]

Dtype = Literal["float16", "bfloat16", "float32"]
Switch = Literal["auto", "on", "off"]
"""auto: on where there is a GPU."""


def is_on(switch: Switch, *, on_gpu: bool) -> bool:
    """Return what a switch means where there is a GPU, or none."""
    return switch == "on" or (switch == "auto" and on_gpu)


def cuda_graphs_obstacle(*, stages: int, experts: int) -> str | None:
    """Return what a layout or a model has that keeps decoding steps from being recorded as CUDA graphs.

    A stage after the first reads its input from memory that belongs to another tensor at the next step (megatron-core
    0.19.2, transformer_block.py:576, `input_tensor`); the exchange of tokens between experts asks the host how many
    there are (moe/token_dispatcher.py, `preprocess`).
    """
    return "more than one pipeline stage" if stages > 1 else "a mixture of experts" if experts else None


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Parameters):
    """The model and the Python that loads it. Paths are those of the machine that serves."""

    checkpoint: str
    """Path of the checkpoint's iter_* folder, of a NeMo 2.0 checkpoint's root."""
    checkpoint_kind: CheckpointKindName = "megatron_bridge"
    """Format of the checkpoint: megatron_bridge or nemo2."""
    tokenizer: str = ""
    """Folder or hub name of the tokenizer; without a value, the checkpoint's own."""
    processor: Multimodal[str] = ""
    """Folder or hub name of the image processor; without a value, the checkpoint's own."""
    params_dtype: Dtype = "bfloat16"
    """Data type of weights and computation: float16, bfloat16 or float32."""
    legacy_checkpoint: bool = False
    """Load although Transformer Engine's _extra_state entries are missing or unexpected."""
    max_sequence_length: int = 4096
    """Tokens of one sequence, prompt and new tokens together."""
    rank_python: str = "python3"
    """Python of the environment that has Megatron, for NeMo 2.0 checkpoints NeMo."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings(Parameters):
    """The engine, and the requests that wait for it."""

    max_requests: int = 256
    """Sequences that one replica decodes at the same time; more wait."""
    max_queue_size: int = 1024
    """Requests that may wait; 0 is no limit."""
    queue_timeout: float = 0.0
    """Seconds that a request may wait, unless the request says otherwise; 0 is no limit."""
    priority_levels: int = 1
    """Levels of the request parameter queue_priority. Requests of level 1 go first."""
    default_priority: int = 0
    """Level of requests without queue_priority; 0 is the level in the middle."""
    fused_layers: TextOnly[Switch] = "auto"
    """Compute dense layers in fewer kernels than Megatron Core; auto: where there is a GPU."""
    async_scheduling: TextOnly[Switch] = "auto"
    """Start a decoding step before the host has finished the one before; auto: where there is a GPU."""
    enable_cuda_graphs: TextOnly[bool] = False
    """Record the decoding step as CUDA graphs: faster steps, a slower start."""
    inference_batch_times_seqlen_threshold: Multimodal[int] = 1000
    """Tokens of a step above which pipeline stages take it in micro-batches of that size."""
    allow_control_tokens_in_chat: bool = False
    """Let the text of chat messages become control tokens, such as an end of turn, where it has their spelling."""
    debug_mode: bool = False
    """Log every request and all that the ranks write."""


@dataclass(frozen=True, kw_only=True)
class KVCacheSettings(Parameters):
    """The KV cache of each rank, and how prompts fill it."""

    kv_cache_gib: float = 0.0
    """GiB per rank; 0 takes, on a GPU, the size from the next two, on a CPU what max_requests can fill, at most 1."""
    kv_cache_fraction: float = 0.0
    """Share of the GPU memory that is free after loading; 0 takes the size from the next one."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that may be in use; the KV cache gets what weights and working memory leave of it."""
    enable_prefix_caching: TextOnly[bool] = False
    """Keep the KV blocks of finished sequences, and reuse them for prompts that begin with the same tokens."""
    enable_chunked_prefill: TextOnly[bool] = False
    """Split the prefill of long prompts over several steps, so that running sequences go on."""
    chunked_prefill_size: TextOnly[int] = 2048
    """Tokens of such a step, those of running sequences included."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits(Parameters):
    """The sizes of images that a multimodal model takes."""

    max_images: Multimodal[int] = 8
    """Images per prompt."""
    max_image_mib: Multimodal[float] = 16.0
    """MiB of one encoded image."""
    max_image_pixels: Multimodal[int] = 33_554_432
    """Pixels of one image, as its header says before anything is decoded."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings(ImageLimits):
    """The images."""

    multimodal: Multimodal[bool] = False
    """Whether prompts come with images."""
    allow_image_urls: Multimodal[str] = ""
    """Hosts whose images are fetched, as in a.example.org,*.b.example.org; without a value, none."""


@dataclass(frozen=True, kw_only=True)
class RankSettings(Parameters):
    """The processes of the ranks."""

    max_restarts: int = 3
    """How many times the ranks are started again after one of them died."""
    start_timeout: int = 1800
    """Seconds to wait for all ranks to become ready."""
    rendezvous: str = ""
    """HOST:PORT of the first node, where several nodes meet."""


@dataclass(frozen=True, kw_only=True)
class Settings(RankSettings, ImageSettings, KVCacheSettings, EngineSettings, Layout, ModelSettings):
    """What the stub and the ranks of a model need to know. The bases are the groups of config.pbtxt, last one first."""

    # `trgen build` has chosen these two; a config.pbtxt without them is a single rank's.
    expert_tensor_parallel_size: TextOnly[int] = 1
    num_gpus: int = 1


@dataclass(frozen=True, kw_only=True)
class SharedRanks(Parameters):
    """The model whose ranks this one uses."""

    stream_of: str
    """Name of that model."""
    start_timeout: int = RankSettings.start_timeout
    """Seconds to wait for that model to become ready."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ImageSettings, SharedRanks):
    """What a streaming model needs to know."""
