"""Finds flags that were given and change nothing: each says so in a sentence, and is put back to its default."""

from trition_repo_gen.checkpoints import Checkpoint
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.runtime.common.parameters import field_names, only_for
from trition_repo_gen.runtime.common.settings import cuda_graphs_obstacle

_BECAUSE = {
    "tokenizer": "its processor has the tokenizer; write --processor-name",
    "num_layers_in_first_pipeline_stage": "its layers are spread evenly",
    "num_layers_in_last_pipeline_stage": "its layers are spread evenly",
}


def drop(options: BuildOptions, checkpoint: Checkpoint) -> tuple[BuildOptions, list[str]]:
    """Return the options without those that have no effect on this checkpoint, and a sentence for each of them."""
    others = only_for(BuildOptions, multimodal=not checkpoint.multimodal)
    kind = "a multimodal model" if checkpoint.multimodal else "an LLM"
    given = {name for name in options.given if getattr(options, name) not in (None, False)}
    notes: list[str] = []
    if "micro_batch_size" in given:
        notes.append("--micro-batch-size has no effect: the engine forms a batch at every step.")
    if "enable_flash_decode" in given and not checkpoint.multimodal:
        notes.append(
            "--enable-flash-decode has no effect: on a GPU the engine always decodes with kernels made for its cache."
        )
    if options.kv_cache_gib and options.kv_cache_fraction:
        notes.append("--kv-cache-fraction has no effect beside --kv-cache-gib.")
    if "gpu_memory_utilization" in given and (options.kv_cache_gib or options.kv_cache_fraction):
        winner = "gib" if options.kv_cache_gib else "fraction"
        notes.append(f"--gpu-memory-utilization has no effect beside --kv-cache-{winner}.")
    if "chunked_prefill_size" in given and not options.enable_chunked_prefill and not checkpoint.multimodal:
        notes.append("--chunked-prefill-size has no effect without --enable-chunked-prefill.")
    idle = [name for name in field_names(BuildOptions) if name in given & others]
    for name in idle:
        because = f": {_BECAUSE[name]}" if name in _BECAUSE else ""
        notes.append(f"--{name.replace('_', '-')} has no effect on {kind}{because}.")
    splits = "inference_batch_times_seqlen_threshold" in given
    if checkpoint.multimodal and splits and options.pipeline_parallel_size == 1:
        notes.append("--inference-batch-times-seqlen-threshold has no effect with one pipeline stage.")
    if options.rendezvous and options.num_nodes == 1:
        notes.append("--rendezvous has no effect on one node.")
    obstacle = cuda_graphs_obstacle(stages=options.pipeline_parallel_size, experts=checkpoint.num_moe_experts)
    if options.enable_cuda_graphs and obstacle and "enable_cuda_graphs" not in idle:
        notes.append(f"--enable-cuda-graphs has no effect with {obstacle}: Megatron Core cannot record its steps.")
        idle.append("enable_cuda_graphs")
    return options.without(*idle), notes
