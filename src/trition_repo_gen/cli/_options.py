"""The names and the help of the build flags: one entry per field of `BuildOptions`."""

from collections.abc import Callable
from typing import Any

from typer import BadParameter, Option

from trition_repo_gen.cli._flags import FlagGroup
from trition_repo_gen.repository.options import BuildOptions

_MOST = 2**31 - 1
"""What Triton reads as `max_batch_size`, and more than there is of anything else."""


def _count(*names: str, help: str, least: int = 1, most: int = _MOST, metavar: str = "N") -> Any:
    return Option(*names, help=help, min=least, metavar=metavar, callback=_up_to(most))


def _amount(*names: str, help: str, metavar: str, least: float = 0.0, most: float | None = None) -> Any:
    return Option(*names, help=help, min=least, max=most, metavar=metavar, callback=_up_to(_MOST))


def _up_to(most: int) -> Callable[[float | None], float | None]:
    """Return a check that keeps a limit which nobody comes near out of the help, and that nan does not pass."""

    def check(value: float | None) -> float | None:
        if value is None or value <= most:
            return value
        raise BadParameter(f"{value} is no number up to {most}.")

    return check


BUILD = FlagGroup(
    BuildOptions,
    {
        "model_name": Option("--model-name", "-tmn", metavar="NAME", help="The model's name in Triton."),
        "megatron_checkpoint": Option(
            "--megatron-checkpoint",
            "-mc",
            metavar="PATH",
            help="A Megatron-Bridge checkpoint: its root or an iter_* folder.",
        ),
        "nemo_checkpoint": Option(
            "--nemo-checkpoint",
            metavar="PATH",
            help="With --multimodal: a NeMo 2.0 checkpoint, the folder with context and weights.",
        ),
        "checkpoint": Option(
            "-nc", metavar="PATH", help="--megatron-checkpoint; with --multimodal, --nemo-checkpoint."
        ),
        "multimodal": Option("--multimodal", help="Serve a model that takes images."),
        "model_version": _count("--model-version", "-tmv", help="The version's folder.", most=2**63 - 1),
        "model_repository": Option("--model-repository", metavar="PATH", help="The folder of models to write into."),
        "num_gpus": _count(
            "--num-gpus",
            "-ng",
            help="GPUs per node; more than the layout needs run replicas. [default: what it needs]",
        ),
        "num_nodes": _count("--num-nodes", "-nn", help="Nodes."),
        "tensor_parallel_size": _count("--tensor-parallel-size", "-tps", help="Ranks that share every layer."),
        "pipeline_parallel_size": _count(
            "--pipeline-parallel-size", "-pps", help="Stages that the layers are spread over."
        ),
        "num_layers_in_first_pipeline_stage": _count(
            "--num-layers-in-first-pipeline-stage",
            "-nlfps",
            help="Layers of the first stage, if not an even share.",
        ),
        "num_layers_in_last_pipeline_stage": _count(
            "--num-layers-in-last-pipeline-stage",
            "-nllps",
            help="Layers of the last stage, if not an even share.",
        ),
        "context_parallel_size": _count(
            "--context-parallel-size", "-cps", help="Context-parallel ranks; in serving they repeat the work."
        ),
        "expert_parallel_size": _count(
            "--expert-parallel-size", "-emps", help="Ranks that the experts are spread over."
        ),
        "expert_tensor_parallel_size": _count(
            "--expert-tensor-parallel-size",
            help="Ranks that share every expert. [default: 1 with expert parallelism, else as the layers]",
        ),
        "sequence_parallel": Option(
            "--sequence-parallel", help="Let tensor-parallel ranks share the norms' tokens, too."
        ),
        "account_for_embedding_in_pipeline_split": Option(
            "--account-for-embedding-in-pipeline-split",
            "-eps",
            help="Count the embedding as a layer of the first stage.",
        ),
        "account_for_loss_in_pipeline_split": Option(
            "--account-for-loss-in-pipeline-split",
            "-alps",
            "-lps",
            help="Count the output layer as a layer of the last stage.",
        ),
        "params_dtype": Option(
            "--params-dtype",
            "-pd",
            help="In which to compute. [default: the checkpoint's; with --multimodal, bfloat16]",
        ),
        "tokenizer": Option(
            "--tokenizer",
            metavar="PATH|NAME",
            help="A folder or a hub name. [default: the checkpoint's]",
        ),
        "inference_max_seq_length": _count(
            "--inference-max-seq-length",
            "-imsl",
            help="Tokens of prompt and answer together. [default: 4096, or the model's if that is less]",
        ),
        "max_requests": _count("--max-requests", help="Sequences that one replica decodes together."),
        "kv_cache_gib": _amount(
            "--kv-cache-gib",
            metavar="GIB",
            help="KV cache per rank; 0 chooses, on a GPU by the next two flags.",
        ),
        "kv_cache_fraction": _amount(
            "--kv-cache-fraction",
            metavar="SHARE",
            least=0.01,
            most=1.0,
            help="KV cache as a share of the GPU memory that is free after loading. [default: by the next flag]",
        ),
        "gpu_memory_utilization": _amount(
            "--gpu-memory-utilization",
            metavar="SHARE",
            least=0.05,
            most=1.0,
            help="How much of a GPU may be in use in all; the KV cache gets what the rest leaves of it.",
        ),
        "gpu_memory_gib": _amount(
            "--gpu-memory-gib",
            metavar="GIB",
            least=0.1,
            help="Memory of the GPUs that will serve, to say what fits. [default: this machine's]",
        ),
        "enable_prefix_caching": Option(
            "--enable-prefix-caching/--no-prefix-caching",
            help="Compute what prompts have in common at their beginning once.",
        ),
        "enable_chunked_prefill": Option(
            "--enable-chunked-prefill/--no-chunked-prefill",
            help="Take long prompts in over several steps, between which others go on.",
        ),
        "chunked_prefill_size": _count("--chunked-prefill-size", help="Tokens of such a step."),
        "fused_layers": Option(
            "--fused-layers", help="Compute dense layers in fewer kernels; auto: where there is a GPU."
        ),
        "async_scheduling": Option(
            "--async-scheduling",
            help="Start a decoding step before the host is done with the one before; auto: where there is a GPU.",
        ),
        "enable_flash_decode": Option("--enable-flash-decode", "-efd", "-fd", help="Accepted: the engine always does."),
        "enable_cuda_graphs": Option(
            "--enable-cuda-graphs", "-cg", help="Record the decoding step on a GPU: faster, slower to start."
        ),
        "legacy_ckpt": Option(
            "--legacy-ckpt", "-lc", help="Load although Transformer Engine's extra states do not match."
        ),
        "micro_batch_size": _count("--micro-batch-size", "-mb", help="Accepted: has no effect."),
        "inference_batch_times_seqlen_threshold": _count(
            "--inference-batch-times-seqlen-threshold",
            "-ibts",
            help="Multimodal, with pipeline stages: tokens of a step above which it is split. [default: 1000]",
        ),
        "processor_name": Option(
            "--processor-name",
            metavar="PATH|NAME",
            help="Multimodal: the processor's folder or hub name. [default: the checkpoint's]",
        ),
        "allow_image_urls": Option(
            "--allow-image-urls",
            metavar="PATTERN",
            help="Multimodal: a host whose images may be fetched, as *.example.org; repeatable. [default: none]",
        ),
        "max_images": _count("--max-images", help="Multimodal: images per prompt. [default: 8]"),
        "max_image_mib": _amount(
            "--max-image-mib", metavar="MIB", least=0.001, help="Multimodal: of one encoded image. [default: 16]"
        ),
        "max_image_pixels": _count("--max-image-pixels", help="Multimodal: pixels of one image. [default: 33554432]"),
        "max_batch_size": _count(
            "--max-batch-size", "-mbs", help="Sequences that one request may have. [default: 8; with --multimodal, 4]"
        ),
        "no_stream": Option("--no-stream", help="Write no NAME_stream beside the model, which streams its answers."),
        "trtllm_alias": Option(
            "--trtllm-alias",
            help="Write NAME_trtllm beside the model, with the tensors that Triton's OpenAI frontend sends.",
        ),
        "max_queue_size": _count("--max-queue-size", least=0, help="Requests that may wait; 0 is no limit."),
        "queue_timeout": _amount(
            "--queue-timeout",
            metavar="SECONDS",
            help="How long a request may wait; 0 is no limit.",
        ),
        "priority_levels": _count(
            "--priority-levels", help="Levels of the request parameter queue_priority; 1 goes first."
        ),
        "default_priority": _count(
            "--default-priority", help="Of requests that do not say. [default: the level in the middle]"
        ),
        "rank_python": Option(
            "--rank-python",
            metavar="PATH",
            help="The Python whose environment has Megatron, or NeMo. [default: $TRGEN_NEMO_PYTHON for NeMo 2.0, else "
            "$TRGEN_RANK_PYTHON, else python3]",
        ),
        "rendezvous": Option("--rendezvous", metavar="HOST:PORT", help="Where the nodes meet; only with several."),
        "max_restarts": _count("--max-restarts", least=0, help="How often dead ranks are started again."),
        "start_timeout": _count(
            "--start-timeout",
            metavar="SECONDS",
            help="After which ranks that are not ready count as dead.",
        ),
        "debug_mode": Option("--debug-mode", "-dm", help="Log requests and all that ranks write."),
        "dry_run": Option("--dry-run", help="Print the tree and config.pbtxt, write nothing."),
        "force": Option("--force", help="Replace a model that is another one, or that trgen did not write."),
    },
)
