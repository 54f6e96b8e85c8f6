"""Flags that were given and change nothing: each says so in a sentence, and is put back to its default."""

import dataclasses
from typing import Any

from trition_repo_gen.checkpoints import Checkpoint
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.runtime.common.settings import cuda_graphs_obstacle

_MULTIMODAL_ONLY = (
    "inference_batch_times_seqlen_threshold",
    "processor_name",
    "allow_image_urls",
    "max_images",
    "max_image_mib",
    "max_image_pixels",
)
_LLM_ONLY = (
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "expert_tensor_parallel_size",
    "sequence_parallel",
    "tokenizer",
    "enable_flash_decode",
    "enable_cuda_graphs",
    "fused_layers",
    "async_scheduling",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "chunked_prefill_size",
)
_BECAUSE = {
    "tokenizer": "its processor has the tokenizer; write --processor-name",
    "num_layers_in_first_pipeline_stage": "its layers are spread evenly",
    "num_layers_in_last_pipeline_stage": "its layers are spread evenly",
}


def drop(options: BuildOptions, checkpoint: Checkpoint) -> tuple[BuildOptions, list[str]]:
    """Return the options without those that have no effect on this checkpoint, and a sentence for each of them."""
    names, kind = (_LLM_ONLY, "a multimodal model") if checkpoint.multimodal else (_MULTIMODAL_ONLY, "an LLM")
    notes: list[str] = []
    if options.micro_batch_size is not None:
        notes.append("--micro-batch-size has no effect: the engine forms its batch anew at every step.")
    if options.enable_flash_decode and not checkpoint.multimodal:
        notes.append(
            "--enable-flash-decode has no effect: on a GPU the engine always decodes with kernels made for its cache."
        )
    if options.kv_cache_gib and options.kv_cache_fraction:
        notes.append("--kv-cache-fraction has no effect beside --kv-cache-gib.")
    if options.gpu_memory_utilization != BuildOptions.gpu_memory_utilization:
        given = "gib" if options.kv_cache_gib else "fraction" if options.kv_cache_fraction else ""
        if given:
            notes.append(f"--gpu-memory-utilization has no effect beside --kv-cache-{given}.")
    sizes_chunks = options.chunked_prefill_size != BuildOptions.chunked_prefill_size
    if sizes_chunks and not options.enable_chunked_prefill and not checkpoint.multimodal:
        notes.append("--chunked-prefill-size has no effect without --enable-chunked-prefill.")
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(BuildOptions)}
    idle = [name for name in names if getattr(options, name) != defaults[name]]
    for name in idle:
        because = f": {_BECAUSE[name]}" if name in _BECAUSE else ""
        notes.append(f"--{name.replace('_', '-')} has no effect on {kind}{because}.")
    splits = options.inference_batch_times_seqlen_threshold is not None
    if checkpoint.multimodal and splits and options.pipeline_parallel_size == 1:
        notes.append("--inference-batch-times-seqlen-threshold has no effect with one pipeline stage.")
    if options.rendezvous and options.num_nodes == 1:
        notes.append("--rendezvous has no effect on one node.")
    obstacle = cuda_graphs_obstacle(stages=options.pipeline_parallel_size, experts=checkpoint.num_moe_experts)
    if options.enable_cuda_graphs and obstacle and "enable_cuda_graphs" not in idle:
        notes.append(f"--enable-cuda-graphs has no effect with {obstacle}: Megatron Core cannot record its steps.")
        idle.append("enable_cuda_graphs")
    return dataclasses.replace(options, **{name: defaults[name] for name in idle}), notes
