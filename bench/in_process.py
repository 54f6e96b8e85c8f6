"""The engine without Triton and without ZeroMQ, in the ranks' environment: what serving is measured against.

    python bench/in_process.py VERSION_FOLDER [NAME] < commands > answers

VERSION_FOLDER is a rendered repository's, with the package `runtime`; TRGEN_SETTINGS holds the deployment's parameters.
Says `{"ready": true}` when the engine NAME [default: runtime] takes sequences; others are made when they are named.
Each line that comes then is a JSON object, and answered with one:

    {"engine": NAME, "clients": N, "prompts": [...], "max_length": N} → {"seconds": S, "tokens": N, "longest_step": S}

`max_length` may be a list, of a number for each prompt.
`runtime` is the engine as the ranks use it, `prefix caching` and `chunked prefill` the same with that; `megatron` is
the same class as Megatron Core's `MegatronLLM` makes it, with its own sampler. N sequences are kept in flight, like N
clients that send the next request when the last is answered. With `"forward": true`, for `runtime`, the answer has
`forward_seconds` as well: of the forward passes alone, between which the device is waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Rows(Protocol):
    """An engine that takes prompts and steps."""

    def add(self, request_id: int, tokens: list[int], max_length: int) -> None:
        """Queue a prompt; it is continued greedily."""

    async def step(self) -> list[int]:
        """Run a step; return the number of new tokens of each sequence that it finished."""


class Loaded(NamedTuple):
    """The model and what of `runtime` goes with it."""

    model: Any
    codec: Any
    settings: Any


class RuntimeSequences:
    """The runtime's engine."""

    def __init__(self, loaded: Loaded, **options: Any):
        from runtime.rank.engines.core.engine import RankEngine

        self._engine = RankEngine(loaded.model, dataclasses.replace(loaded.settings, **options), loaded.codec)
        self.loop = self._engine.loop

    def add(self, request_id: int, tokens: list[int], max_length: int) -> None:
        from runtime.common.protocol import SequenceRequest
        from runtime.rank.engines.text import Prompt

        self._engine.add(request_id, SequenceRequest(prompt="", max_length=max_length), Prompt("", tokens), watch=False)

    async def step(self) -> list[int]:
        result = await self._engine.step()
        return [len(finished.tokens) for finished in result.finished.values()]

    @contextlib.contextmanager
    def timed_forward(self) -> Iterator[list[float]]:
        """Collect the seconds of each forward pass."""
        import torch

        controller = self._engine._engine.controller
        forward, seconds = controller._dynamic_step_forward_logits, []

        def timed(*arguments: Any) -> None:
            torch.cuda.synchronize()
            started = time.perf_counter()
            forward(*arguments)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)

        controller._dynamic_step_forward_logits = timed
        try:
            yield seconds
        finally:
            del controller._dynamic_step_forward_logits


class MegatronRows:
    """Megatron Core's own pipeline, with the runtime's sizes."""

    def __init__(self, loaded: Loaded):
        from megatron.core.inference.apis import MegatronLLM
        from megatron.core.inference.config import InferenceConfig
        from runtime.rank.engines.core.loaded import kv_block_size

        settings = loaded.settings
        llm = MegatronLLM(
            model=loaded.model.model,
            tokenizer=_Tokenizer(loaded.codec),
            use_coordinator=False,
            inference_config=InferenceConfig(
                max_sequence_length=settings.max_sequence_length,
                max_requests=settings.max_requests,
                block_size_tokens=kv_block_size(loaded.model.model.config),
                buffer_size_gb=settings.kv_cache_gib or 1.0,
                num_cuda_graphs=16 if settings.enable_cuda_graphs else None,
                materialize_only_last_token_logits=True,
            ),
        )
        self._engine = llm._engine
        self._eos = loaded.model.eos_ids[0] if loaded.model.eos_ids else -1
        self.loop = self._engine._loop

    def add(self, request_id: int, tokens: list[int], max_length: int) -> None:
        from megatron.core.inference.sampling_params import SamplingParams

        self._engine.add_request(
            request_id,
            tokens,
            SamplingParams(top_k=1, num_tokens_to_generate=max_length, termination_id=self._eos),
        )

    async def step(self) -> list[int]:
        result = await self._engine.async_step()
        return [len(record.merge().generated_tokens) for record in result["finished_request_records"]]


class _Tokenizer:
    """What `MegatronLLM` asks of a tokenizer when prompts are tokens."""

    eod = None
    bos = None

    def __init__(self, codec: Any):
        self._codec = codec

    def detokenize(self, tokens: list[int], **_: Any) -> str:
        text: str = self._codec.decode(tokens)
        return text


def load(version_folder: Path) -> Loaded:
    """Load the model as a rank does that is alone."""
    import torch
    import torch.distributed as dist

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        from runtime.rank import cpu

        cpu.install()
    from runtime.rank.loaders import bridge_text

    if on_cpu:
        cpu.after_import()
    from runtime.common.settings import Settings
    from runtime.rank.engines.text import TextCodec

    if not on_cpu:
        torch.cuda.set_device(0)
    dist.init_process_group("gloo" if on_cpu else "nccl", store=dist.HashStore(), rank=0, world_size=1)
    settings = Settings.from_parameters(json.loads(os.environ["TRGEN_SETTINGS"]))
    loaded = bridge_text.load(settings, on_cpu=on_cpu, progress=lambda text: None)
    return Loaded(loaded, TextCodec(loaded.tokenizer), settings)


async def closed_loop(
    sequences: Rows, ids: itertools.count[int], clients: int, prompts: list[list[int]], max_length: int | list[int]
) -> tuple[float, int, float]:
    """Continue all prompts with `clients` in flight; return seconds, new tokens and the longest step's seconds."""
    started = time.perf_counter()
    lengths = [max_length] * len(prompts) if isinstance(max_length, int) else max_length
    waiting = iter(zip(prompts, lengths, strict=True))
    running = tokens = 0
    longest = 0.0
    while True:
        for prompt, length in itertools.islice(waiting, clients - running):
            sequences.add(next(ids), prompt, length)
            running += 1
        if not running:
            return time.perf_counter() - started, tokens, longest
        step = time.perf_counter()
        finished = await sequences.step()
        longest = max(longest, time.perf_counter() - step)
        running -= len(finished)
        tokens += sum(finished)


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    version_folder = Path(sys.argv[1])
    sys.path.insert(0, str(version_folder))
    loaded = load(version_folder)
    import torch

    chunk = 2048 if torch.cuda.is_available() else 512  # a step of so many tokens takes a tenth of a second
    kinds: dict[str, Callable[[Loaded], Any]] = {
        "runtime": RuntimeSequences,
        "prefix caching": lambda loaded: RuntimeSequences(loaded, enable_prefix_caching=True),
        "chunked prefill": lambda loaded: RuntimeSequences(
            loaded, enable_chunked_prefill=True, chunked_prefill_size=chunk
        ),
        "megatron": MegatronRows,
    }
    engines: dict[str, Any] = {name: kinds[name](loaded) for name in sys.argv[2:] or ["runtime"]}
    ids = itertools.count(1)
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        name = command["engine"]
        if name not in engines:
            engines[name] = kinds[name](loaded)
        sequences = engines[name]
        prompts = [loaded.model.tokenizer(prompt)["input_ids"] for prompt in command["prompts"]]
        with sequences.timed_forward() if command.get("forward") else contextlib.nullcontext([]) as forward:
            seconds, tokens, longest = sequences.loop.run_until_complete(
                closed_loop(sequences, ids, command["clients"], prompts, command["max_length"])
            )
        answer = {"seconds": seconds, "tokens": tokens, "longest_step": longest}
        print(json.dumps(answer | ({"forward_seconds": sum(forward)} if forward else {})), file=answers)


if __name__ == "__main__":
    main()
