"""What a user may ask of a build. The command line fills it in; its defaults are the command's defaults."""

from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.runtime.common.settings import Dtype, Switch


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """One field per flag of `trgen build`; None means «not given». `cli/_options.py` has the flags' names and help."""

    model_name: str
    megatron_checkpoint: Path | None = None
    nemo_checkpoint: Path | None = None
    checkpoint: Path | None = None
    """`-nc`: either of the two above, by `multimodal`."""
    multimodal: bool = False
    model_version: int = 1
    model_repository: Path = Path("model_repository")

    num_gpus: int | None = None
    num_nodes: int = 1
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    num_layers_in_first_pipeline_stage: int | None = None
    num_layers_in_last_pipeline_stage: int | None = None
    context_parallel_size: int = 1
    expert_parallel_size: int = 1
    expert_tensor_parallel_size: int | None = None
    sequence_parallel: bool = False
    account_for_embedding_in_pipeline_split: bool = False
    account_for_loss_in_pipeline_split: bool = False

    params_dtype: Dtype | None = None
    tokenizer: str | None = None
    inference_max_seq_length: int | None = None
    max_batch_size: int | None = None
    """None: 8, of a multimodal model 4."""
    max_requests: int = 256
    kv_cache_gib: float = 0.0
    kv_cache_fraction: float | None = None
    """None: by the next one."""
    gpu_memory_utilization: float = 0.9
    gpu_memory_gib: float | None = None
    """None: this machine's GPUs'."""
    enable_prefix_caching: bool = False
    enable_chunked_prefill: bool = False
    chunked_prefill_size: int = 2048
    fused_layers: Switch = "auto"
    async_scheduling: Switch = "auto"
    enable_flash_decode: bool = False
    enable_cuda_graphs: bool = False
    legacy_ckpt: bool = False
    micro_batch_size: int | None = None
    inference_batch_times_seqlen_threshold: int | None = None
    processor_name: str | None = None
    allow_image_urls: list[str] | None = None
    max_images: int | None = None
    max_image_mib: float | None = None
    max_image_pixels: int | None = None

    no_stream: bool = False
    trtllm_alias: bool = False

    max_queue_size: int = 1024
    queue_timeout: float = 0.0
    """Seconds; 0 means none."""
    priority_levels: int = 1
    default_priority: int | None = None

    rank_python: str | None = None
    """None: $TRGEN_NEMO_PYTHON for NeMo 2.0, else $TRGEN_RANK_PYTHON, else python3."""
    rendezvous: str | None = None
    max_restarts: int = 3
    start_timeout: int = 1800
    """Seconds."""
    debug_mode: bool = False

    dry_run: bool = False
    force: bool = False
