"""The names and the help of the build flags: one entry per field of `BuildOptions`."""

from typer import Option

from trition_repo_gen.cli._flags import FlagGroup
from trition_repo_gen.repository.options import BuildOptions

_LAYOUT = "How the model is cut over GPUs"
_ENGINE = "The engine"
_QUEUE = "Requests"
_RANKS = "The ranks' processes"
_OUTPUT = "Writing"

BUILD = FlagGroup(
    BuildOptions,
    {
        "model_name": Option("--model-name", "--triton-model-name", "-tmn", help="The model's name in Triton."),
        "megatron_checkpoint": Option(
            "--megatron-checkpoint", "-mc", help="A Megatron-Bridge checkpoint: its root or an iter_* folder."
        ),
        "nemo_checkpoint": Option(
            "--nemo-checkpoint", help="With --multimodal: a NeMo 2.0 checkpoint. Not served by this version."
        ),
        "checkpoint": Option("-nc", help="--megatron-checkpoint; with --multimodal, --nemo-checkpoint."),
        "multimodal": Option("--multimodal", help="Serve a multimodal model. Not served by this version."),
        "model_version": Option("--model-version", "--triton-model-version", "-tmv", min=1, help="The version folder."),
        "model_repository": Option("--model-repository", help="The folder of models to write into."),
        "num_gpus": Option(
            "--num-gpus",
            "-ng",
            min=1,
            help="GPUs per node; more than the layout needs run replicas. [dim]\\[default: what it needs][/]",
        ),
        "num_nodes": Option("--num-nodes", "-nn", min=1, help="Nodes.", rich_help_panel=_LAYOUT),
        "tensor_parallel_size": Option(
            "--tensor-parallel-size",
            "--tensor-parallelism-size",
            "-tps",
            min=1,
            help="Ranks that share every layer.",
            rich_help_panel=_LAYOUT,
        ),
        "pipeline_parallel_size": Option(
            "--pipeline-parallel-size",
            "--pipeline-parallelism-size",
            "-pps",
            min=1,
            help="Stages that the layers are spread over.",
            rich_help_panel=_LAYOUT,
        ),
        "num_layers_in_first_pipeline_stage": Option(
            "--num-layers-in-first-pipeline-stage",
            "-nlfps",
            min=1,
            help="Layers of the first stage, if not an even share.",
            rich_help_panel=_LAYOUT,
        ),
        "num_layers_in_last_pipeline_stage": Option(
            "--num-layers-in-last-pipeline-stage",
            "-nllps",
            min=1,
            help="Layers of the last stage, if not an even share.",
            rich_help_panel=_LAYOUT,
        ),
        "context_parallel_size": Option(
            "--context-parallel-size",
            "-cps",
            min=1,
            help="Context-parallel ranks; in serving they repeat the work.",
            rich_help_panel=_LAYOUT,
        ),
        "expert_parallel_size": Option(
            "--expert-parallel-size",
            "--expert-model-parallel-size",
            "-emps",
            min=1,
            help="Ranks that the experts are spread over.",
            rich_help_panel=_LAYOUT,
        ),
        "expert_tensor_parallel_size": Option(
            "--expert-tensor-parallel-size",
            min=1,
            help="Ranks that share every expert. [dim]\\[default: 1 with expert parallelism, else as the layers][/]",
            rich_help_panel=_LAYOUT,
        ),
        "sequence_parallel": Option(
            "--sequence-parallel", help="Share norms between tensor-parallel ranks, too.", rich_help_panel=_LAYOUT
        ),
        "account_for_embedding_in_pipeline_split": Option(
            "--account-for-embedding-in-pipeline-split",
            "-eps",
            help="Count the embedding as a layer of the first stage.",
            rich_help_panel=_LAYOUT,
        ),
        "account_for_loss_in_pipeline_split": Option(
            "--account-for-loss-in-pipeline-split",
            "-alps",
            "-lps",
            help="Count the output layer as a layer of the last stage.",
            rich_help_panel=_LAYOUT,
        ),
        "params_dtype": Option(
            "--params-dtype",
            "-pd",
            help="In which to compute. [dim]\\[default: the checkpoint's][/]",
            rich_help_panel=_ENGINE,
        ),
        "tokenizer": Option(
            "--tokenizer",
            help="A folder or a hub name. [dim]\\[default: the checkpoint's][/]",
            rich_help_panel=_ENGINE,
        ),
        "inference_max_seq_length": Option(
            "--inference-max-seq-length",
            "-imsl",
            min=1,
            help="Tokens of prompt and answer together. [dim]\\[default: 4096, or the model's if that is less][/]",
            rich_help_panel=_ENGINE,
        ),
        "max_batch_size": Option(
            "--max-batch-size", "-mbs", min=1, help="Rows that one request may have.", rich_help_panel=_QUEUE
        ),
        "max_requests": Option(
            "--max-requests", min=1, help="Rows that one replica decodes together.", rich_help_panel=_ENGINE
        ),
        "kv_cache_gib": Option(
            "--kv-cache-gib", min=0.0, help="KV cache per rank; 0 chooses.", rich_help_panel=_ENGINE
        ),
        "enable_flash_decode": Option(
            "--enable-flash-decode", "-efd", "-fd", help="Accepted: the engine always does.", rich_help_panel=_ENGINE
        ),
        "enable_cuda_graphs": Option(
            "--enable-cuda-graphs", "-cg", help="Record the decoding step on a GPU.", rich_help_panel=_ENGINE
        ),
        "legacy_ckpt": Option(
            "--legacy-ckpt",
            "-lc",
            help="Load although Transformer Engine's extra states do not match.",
            rich_help_panel=_ENGINE,
        ),
        "micro_batch_size": Option(
            "--micro-batch-size", "-mb", min=1, help="Accepted: has no effect.", rich_help_panel=_ENGINE
        ),
        "inference_batch_times_seqlen_threshold": Option(
            "--inference-batch-times-seqlen-threshold",
            "-ibts",
            help="Accepted: has no effect on an LLM.",
            rich_help_panel=_ENGINE,
        ),
        "processor_name": Option(
            "--processor-name", help="Accepted: has no effect on an LLM.", rich_help_panel=_ENGINE
        ),
        "max_queue_size": Option(
            "--max-queue-size", min=0, help="Requests that may wait; 0 is no limit.", rich_help_panel=_QUEUE
        ),
        "queue_timeout": Option(
            "--queue-timeout", min=0.0, help="Seconds that a request may wait; 0 is no limit.", rich_help_panel=_QUEUE
        ),
        "rank_python": Option(
            "--rank-python",
            envvar="TRGEN_RANK_PYTHON",
            help="The Python whose environment has Megatron.",
            rich_help_panel=_RANKS,
        ),
        "rendezvous": Option(
            "--rendezvous",
            metavar="HOST:PORT",
            help="Where the nodes meet; only with several.",
            rich_help_panel=_RANKS,
        ),
        "max_restarts": Option(
            "--max-restarts", min=0, help="How often dead ranks are started again.", rich_help_panel=_RANKS
        ),
        "start_timeout": Option(
            "--start-timeout",
            min=1,
            help="Seconds until ranks that are not ready count as dead.",
            rich_help_panel=_RANKS,
        ),
        "debug_mode": Option("--debug-mode", "-dm", help="Log every request and step.", rich_help_panel=_RANKS),
        "dry_run": Option("--dry-run", help="Print the tree and config.pbtxt, write nothing.", rich_help_panel=_OUTPUT),
        "force": Option("--force", help="Replace a model that trgen did not write.", rich_help_panel=_OUTPUT),
    },
)
