"""What test_engine_options.py runs in the ranks' environment: one model, several engines; prints one JSON document.

Usage: python engine_driver.py PACKAGE_FOLDER CHECKPOINT
"""

import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

COMMON = "Count from one to fifty. " * 12
ENDS = ("Now.", "What is the color of a banana?")
CHUNKED = {"enable_chunked_prefill": True, "chunked_prefill_size": 64}
CACHED = {"enable_prefix_caching": True}
ASYNCHRONOUS = {"async_scheduling": "on"}
ENGINES: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefix caching": CACHED,
    "chunked prefill": CHUNKED,
    "small cache": {"kv_cache_gib": None},
    "small cache, both": {"kv_cache_gib": None} | CACHED | CHUNKED,
    "asynchronous, small cache, both": {"kv_cache_gib": None} | CACHED | CHUNKED | ASYNCHRONOUS,
}
"""Settings; None is a cache of `small`."""


def main() -> None:
    """Answer the same sequences with each engine."""
    import torch
    import torch.distributed as dist
    from runtime.rank import cpu

    on_cpu = cpu.needed()
    if on_cpu:
        cpu.install()
    from runtime.rank.loaders import bridge_text

    if on_cpu:
        cpu.after_import()
    from runtime.common.protocol import SequenceRequest
    from runtime.common.settings import Settings
    from runtime.rank.engines.core.engine import RankEngine
    from runtime.rank.engines.text import TextCodec

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    settings = Settings(checkpoint=sys.argv[2], params_dtype="float32", max_sequence_length=1024, max_requests=16)
    loaded = bridge_text.load(settings, on_cpu=on_cpu, progress=lambda text: None)
    codec = TextCodec(loaded.tokenizer)
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"top_k": 0, "temperature": 1.2},
        {"log_probs": True},
        {"log_probs": True, "top_logprobs": 2, "echo": True},
        {"repetition_penalty": 1.3, "top_k": 5},
    )
    sequences = [
        SequenceRequest(prompt=COMMON + end, max_length=70, min_length=60, seed=seed, **kind)
        for seed, (end, kind) in enumerate(itertools.product(ENDS, kinds))
    ]
    prompts = [codec.encode(sequence) for sequence in sequences]

    def answer(engine: RankEngine, chosen: Mapping[int, SequenceRequest]) -> dict[int, Any]:
        for request_id, sequence in chosen.items():
            engine.add(request_id, sequence, prompts[request_id - 1], watch=request_id % 2 == 0)
        answers: dict[int, Any] = {}
        streamed: dict[int, list[int]] = {}
        while engine.has_work:
            result = engine.loop.run_until_complete(engine.step())
            for request_id, tokens in result.tokens.items():
                streamed.setdefault(request_id, []).extend(tokens)
            for request_id, done in result.finished.items():
                assert streamed.get(request_id, done.tokens) == done.tokens
                assert done.failure is None, done.failure
                sequence = chosen[request_id]
                answers[request_id] = {
                    "tokens": done.tokens,
                    # The engine computes some for sequences that did not ask, too.
                    "log_probs": done.log_probs if sequence.log_probs else [],
                    "prompt_log_probs": done.prompt_log_probs if sequence.echo else [],
                    "top": [list(token.values()) for token in done.prompt_top_logprobs + done.top_logprobs],
                }
        return answers

    def cancel(engine: RankEngine) -> list[int]:
        """Add sequences, end some of them after so many steps each; return who was reported."""
        for request_id in range(1, 8):
            engine.add(request_id, sequences[request_id - 1], prompts[request_id - 1], watch=False)
        gone, reported, ended = [], [], iter(range(1, 8))
        while engine.has_work:
            if (request_id := next(ended, None)) is not None and engine.finish(request_id):
                gone.append(request_id)
            result = engine.loop.run_until_complete(engine.step())
            reported += list(result.finished)
        return sorted(gone + reported)

    report: dict[str, Any] = {}
    for name, options in ENGINES.items():
        if "kv_cache_gib" in options:
            options = options | {"kv_cache_gib": small(loaded.model.config)}
        engine = RankEngine(loaded, replace(settings, **options), codec)
        with torch.inference_mode():
            engine._context.reset()  # as the engine does once it has recorded CUDA graphs
        evicted = count_calls(engine._context, "evict_overflow_paused_requests")
        first = answer(engine, dict(enumerate(sequences, 1)))
        report[name] = {
            "answers": first,
            "again": answer(engine, {request_id: sequences[request_id - 1] for request_id in (1, 2, 4)}),
            "evicted": sum(evicted),
            "skipped": int(engine._engine._prefill_tokens_skipped),
            "ended": cancel(engine),
            "usage": engine.kv_cache_usage,
        }
    print(json.dumps(report))


def small(config: Any) -> float:
    """GiB for 24 blocks of 64 tokens: four sequences' prompts, and not their answers as well."""
    heads = config.num_query_groups or config.num_attention_heads
    return 24 * 64 * 2 * config.num_layers * heads * config.kv_channels * 4 / 2**30


def count_calls(context: Any, name: str) -> list[int]:
    """Have a method's calls noted that return something."""
    method, found = getattr(context, name), []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        result = method(*arguments, **keywords)
        if result is not None:
            found.append(1)
        return result

    setattr(context, name, counted)
    return found


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
