"""The trained tiny model that reads pictures, on one GPU and on two, from checkpoints of Megatron-Bridge and NeMo 2.0:
right answers, and the same ones.
"""

import base64
import contextlib
import io
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.deployment import CHECKOUT
from bench.gpu.answers import KV_CACHE_GIB
from bench.gpu.serving import Host, Serving, serving
from bench.report import console, table
from trition_repo_gen.clients.address import parse_url
from trition_repo_gen.clients.triton import TritonModel, column
from trition_repo_gen.errors import UserError

HUGGING_FACE = CHECKOUT / "examples/tiny_qwen_vl"
LAYOUTS: dict[str, dict[str, Any]] = {
    "one GPU": {},
    "TP2": {"tensor_parallel_size": 2},
    "PP2": {"pipeline_parallel_size": 2},
}
_PICTURES = 32


def run(host: Host, checkpoint: Path, nemo_checkpoint: Path | None, gpus: int) -> dict[str, Any]:
    """Serve every layout that `gpus` GPUs allow, side by side, and ask each about the same pictures.

    Args:
        host: where.
        checkpoint: Megatron-Bridge's.
        nemo_checkpoint: NeMo's of the same weights, if it can be served.
        gpus: 1 or 2.
    """
    sys.path.insert(0, str(HUGGING_FACE))
    import pictures

    rng = random.Random(7)
    drawn = [pictures.draw(rng) for _ in range(_PICTURES)]
    asked = [(question, picture) for picture in drawn for question in pictures.QUESTIONS]
    expected = [picture.answer(question) for question, picture in asked]
    results: dict[str, Any] = {"questions": len(asked)}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Serving] = {}
        for kind, source in {"Megatron-Bridge": checkpoint, "NeMo": nemo_checkpoint}.items():
            for layout, options in LAYOUTS.items():
                if source is None or (gpus == 1 and "2" in layout):
                    continue
                name = f"{kind}, {layout}"
                sizes = {"kv_cache_gib": KV_CACHE_GIB, "max_requests": 32, "inference_max_seq_length": 1024}
                model = "pictures-" + name.replace(", ", "-").replace(" ", "-")
                build = serving(host, model, source, nemo=kind == "NeMo", multimodal=True, **sizes, **options)
                servers[name] = stack.enter_context(build)
        got: dict[str, list[str]] = {}
        for name, running in servers.items():
            try:
                running.wait_ready()
                with ThreadPoolExecutor(16) as pool:
                    got[name] = list(pool.map(lambda pair, running=running: _ask(running, *pair), asked))
            except UserError as error:  # the others can still say something
                console.print(f"{name}: {error}", style="red")
                results[name] = {"error": str(error)}
    for name, answers in got.items():
        results[name] = {
            "right": sum(a == b for a, b in zip(answers, expected, strict=True)),
            "same_as_first": sum(a == b for a, b in zip(answers, next(iter(got.values())), strict=True)),
        }
    table(
        f"The trained tiny Qwen2.5-VL, bfloat16, {len(asked)} questions about {_PICTURES} pictures",
        ["layout", "right", "same as the first"],
        [[name, str(results[name]["right"]), str(results[name]["same_as_first"])] for name in got],
    )
    return results


def _ask(running: Serving, question: str, picture: Any) -> str:
    png = io.BytesIO()
    picture.image.save(png, "PNG")
    inputs = {
        "prompts": column([question.encode()], np.object_),
        "images": column([base64.b64encode(png.getvalue())], np.object_),
        "max_length": column([32], np.int64),
    }
    with TritonModel(parse_url(running.url), running.model, timeout=300.0) as model:
        return str(model.infer(inputs, ("sentences",))["sentences"][0, 0].decode())
