"""The engine for models that take images, in the ranks' environment: what `recompute.py` measures.

    python bench/recompute_driver.py VERSION_FOLDER < commands > answers

As `in_process.py`, with other commands:

    {"prompt": TEXT, "image": BASE64, "new_tokens": N}
        → {"cached": S, "recomputed": S, "prompt_tokens": N, "equal": whether both ways gave the same tokens}
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Rows:
    """Sequences through an engine, one after the other."""

    def __init__(self, engine: Any):
        self._engine = engine
        self._ids: Iterator[int] = itertools.count(1)

    def tokens(self, prompt: Any, count: int) -> list[int]:
        """Continue a prompt greedily by `count` tokens."""
        from runtime.common.protocol import SequenceRequest

        sequence = SequenceRequest(prompt="", max_length=count, min_length=count)
        self._engine.add(next(self._ids), sequence, prompt, watch=False)
        while True:
            result = self._engine.loop.run_until_complete(self._engine.step())
            for finished in result.finished.values():
                return list(finished.tokens)


def load() -> Any:
    """Return the engine, and what encodes prompts, as a rank does that is alone."""
    import torch
    import torch.distributed as dist
    from runtime.common.settings import Settings
    from runtime.rank import start as engines

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    settings = Settings.from_parameters(json.loads(os.environ["TRGEN_SETTINGS"]))
    return engines.start(settings, on_cpu=True, progress=lambda text: None)


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(sys.argv[1])))
    started = load()
    from runtime.common.protocol import SequenceRequest

    sequences = Rows(started.engine)
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        sequence = SequenceRequest(prompt=command["prompt"], images=[base64.b64decode(command["image"])])
        prompt = started.codec.encode(sequence)
        count = command["new_tokens"]

        begin = time.perf_counter()
        cached = sequences.tokens(prompt, count)
        middle = time.perf_counter()
        recomputed: list[int] = []
        while len(recomputed) < count:
            recomputed += sequences.tokens(dataclasses.replace(prompt, tokens=[*prompt.tokens, *recomputed]), 1)
        end = time.perf_counter()
        answer = {
            "cached": middle - begin,
            "recomputed": end - middle,
            "prompt_tokens": len(prompt.tokens),
            "equal": cached == recomputed,
        }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
