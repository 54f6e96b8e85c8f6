"""The names of the build flags, and the panels in which the help shows them.

Type, default and description of a flag are those of the field of `BuildOptions`.
"""

from typer import Argument, Option

from trition_repo_gen.cli._flags import FlagGroup, amount, count, in_panel
from trition_repo_gen.repository.options import MAX_BATCH_SIZE, MULTIMODAL_MAX_BATCH_SIZE, BuildOptions
from trition_repo_gen.runtime.common.settings import Settings

_CHECKPOINT = {
    "any_checkpoint": Argument(metavar="CHECKPOINT"),
    "model_name": Option("--model-name", "-tmn", metavar="NAME"),
    "megatron_checkpoint": Option("--megatron-checkpoint", "-mc"),
    "nemo_checkpoint": Option("--nemo-checkpoint"),
    "checkpoint": Option("-nc"),
    "multimodal": Option("--multimodal"),
    "tokenizer": Option("--tokenizer", metavar="PATH|NAME", show_default="the checkpoint's"),
    "processor_name": Option("--processor-name", metavar="PATH|NAME", show_default="the checkpoint's"),
    "params_dtype": Option("--params-dtype", "-pd", show_default="the checkpoint's; with --multimodal, bfloat16"),
    "legacy_ckpt": Option("--legacy-ckpt", "-lc"),
}
_OUTPUT = {
    "model_version": count("--model-version", "-tmv", most=2**63 - 1),
    "model_repository": Option("--model-repository"),
    "no_stream": Option("--no-stream"),
    "trtllm_alias": Option("--trtllm-alias"),
    "dry_run": Option("--dry-run"),
    "force": Option("--force"),
}
_LAYOUT = {
    "num_gpus": count("--num-gpus", "-ng", show_default="what the layout needs"),
    "num_nodes": count("--num-nodes", "-nn"),
    "tensor_parallel_size": count("--tensor-parallel-size", "-tps"),
    "pipeline_parallel_size": count("--pipeline-parallel-size", "-pps"),
    "num_layers_in_first_pipeline_stage": count(
        "--num-layers-in-first-pipeline-stage",
        "-nlfps",
        help="Layers of the first pipeline stage.",
        show_default="an even share",
    ),
    "num_layers_in_last_pipeline_stage": count(
        "--num-layers-in-last-pipeline-stage",
        "-nllps",
        help="Layers of the last pipeline stage.",
        show_default="an even share",
    ),
    "account_for_embedding_in_pipeline_split": Option("--account-for-embedding-in-pipeline-split", "-eps"),
    "account_for_loss_in_pipeline_split": Option("--account-for-loss-in-pipeline-split", "-alps", "-lps"),
    "context_parallel_size": count("--context-parallel-size", "-cps"),
    "expert_parallel_size": count("--expert-parallel-size", "-emps"),
    "expert_tensor_parallel_size": count(
        "--expert-tensor-parallel-size", show_default="1 with expert parallelism, else the tensor parallel size"
    ),
    "sequence_parallel": Option("--sequence-parallel"),
}
_ENGINE = {
    "inference_max_seq_length": count(
        "--inference-max-seq-length",
        "-imsl",
        show_default=f"{Settings.max_sequence_length}, or the model's if that is less",
    ),
    "max_batch_size": count(
        "--max-batch-size",
        "-mbs",
        show_default=f"{MAX_BATCH_SIZE}; with --multimodal, {MULTIMODAL_MAX_BATCH_SIZE}",
    ),
    "max_requests": count("--max-requests"),
    "enable_cuda_graphs": Option("--enable-cuda-graphs", "-cg"),
    "fused_layers": Option("--fused-layers"),
    "async_scheduling": Option("--async-scheduling"),
    "enable_flash_decode": Option("--enable-flash-decode", "-efd", "-fd"),
    "micro_batch_size": count("--micro-batch-size", "-mb"),
    "inference_batch_times_seqlen_threshold": count("--inference-batch-times-seqlen-threshold", "-ibts"),
    "allow_control_tokens_in_chat": Option("--allow-control-tokens-in-chat"),
}
_MEMORY = {
    "kv_cache_gib": amount(
        "--kv-cache-gib",
        metavar="GIB",
        help="GiB of KV cache per rank.",
        show_default="on a GPU by the next two, on a CPU what --max-requests can fill, at most 1",
    ),
    "kv_cache_fraction": amount(
        "--kv-cache-fraction",
        metavar="SHARE",
        least=0.01,
        most=1.0,
        help="KV cache as a share of the GPU memory that is free after loading.",
        show_default="by the next one",
    ),
    "gpu_memory_utilization": amount("--gpu-memory-utilization", metavar="SHARE", least=0.05, most=1.0),
    "gpu_memory_gib": amount("--gpu-memory-gib", metavar="GIB", least=0.1, show_default="of this machine's GPUs"),
    "enable_prefix_caching": Option("--enable-prefix-caching/--no-prefix-caching"),
    "enable_chunked_prefill": Option("--enable-chunked-prefill/--no-chunked-prefill"),
    "chunked_prefill_size": count("--chunked-prefill-size"),
}
_IMAGES = {
    "allow_image_urls": Option("--allow-image-urls", metavar="PATTERN", show_default="none"),
    "max_images": count("--max-images"),
    "max_image_mib": amount("--max-image-mib", metavar="MIB", least=0.001),
    "max_image_pixels": count("--max-image-pixels"),
}
_QUEUE = {
    "max_queue_size": count("--max-queue-size", least=0),
    "queue_timeout": amount("--queue-timeout", metavar="SECONDS", show_default="0"),
    "priority_levels": count("--priority-levels"),
    "default_priority": count(
        "--default-priority", help="Level of requests without queue_priority.", show_default="the level in the middle"
    ),
}
_RANKS = {
    "rank_python": Option(
        "--rank-python",
        metavar="PATH",
        show_default="$TRGEN_NEMO_PYTHON for NeMo 2.0, else $TRGEN_RANK_PYTHON, else python3",
    ),
    "rendezvous": Option("--rendezvous", metavar="HOST:PORT"),
    "max_restarts": count("--max-restarts", least=0),
    "start_timeout": count("--start-timeout", metavar="SECONDS"),
    "debug_mode": Option("--debug-mode", "-dm"),
}

BUILD = FlagGroup(
    BuildOptions,
    {
        **in_panel("Checkpoint", _CHECKPOINT),
        **in_panel("Output", _OUTPUT),
        **in_panel("Layout", _LAYOUT),
        **in_panel("Engine", _ENGINE),
        **in_panel("Memory", _MEMORY),
        **in_panel("Images (multimodal models)", _IMAGES),
        **in_panel("Queue", _QUEUE),
        **in_panel("Ranks", _RANKS),
    },
)
"""Every flag of `trgen build`."""
