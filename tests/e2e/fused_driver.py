"""What test_fused_layers.py runs in the ranks' environment: models as they are, then with fused layers.

Usage: python fused_driver.py PACKAGE_FOLDER CHECKPOINT..., or the same under torchrun, whose ranks are tensor parallel
then. Triton's kernels are interpreted, for want of a GPU.
"""

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

PROMPTS = ("Now.", "Be")
MAX_LENGTH = 3


def main() -> None:
    """Answer the same rows with both."""
    import torch
    import torch.distributed as dist
    from runtime.rank import cpu

    cpu.install()
    from runtime.rank.loaders import bridge_text

    cpu.after_import()
    from megatron.core import parallel_state
    from runtime.common.protocol import SequenceRequest
    from runtime.common.settings import Settings
    from runtime.rank.engines.core.engine import RankEngine
    from runtime.rank.engines.core.fused import decoding
    from runtime.rank.engines.core.fused.layers import fuse
    from runtime.rank.engines.text import TextCodec

    decoding._PROGRAMS = 8  # each takes milliseconds
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def answers(engine: RankEngine, codec: TextCodec) -> list[Any]:
        for request_id, text in enumerate(PROMPTS, 1):
            row = SequenceRequest(prompt=text, max_length=MAX_LENGTH, min_length=MAX_LENGTH, log_probs=True, echo=True)
            engine.add(request_id, row, codec.encode(row), watch=False)
        found = {}
        while engine.has_work:
            found |= engine.loop.run_until_complete(engine.step()).finished
        return [[row.tokens, row.prompt_log_probs + row.log_probs] for _, row in sorted(found.items())]

    report = {}
    for checkpoint in sys.argv[2:]:
        settings = Settings(
            checkpoint=checkpoint,
            params_dtype="float32",
            max_sequence_length=128,
            max_requests=8,
            tensor_parallel_size=dist.get_world_size(),
            num_gpus=dist.get_world_size(),
        )
        loaded = bridge_text.load(settings, on_cpu=True, progress=lambda text: None)
        codec = TextCodec(loaded.tokenizer)
        plain = answers(RankEngine(loaded, settings, codec), codec)
        halves = fuse(loaded.model, settings.max_sequence_length)
        report[checkpoint] = {"plain": plain, "fused": answers(RankEngine(loaded, settings, codec), codec)}
        report[checkpoint]["halves"] = halves
        parallel_state.destroy_model_parallel()
    if dist.get_rank() == 0:
        print(json.dumps(report))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
