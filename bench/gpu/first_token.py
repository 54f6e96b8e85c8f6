"""Time to first token of a long prompt, through tritonserver, over the forward pass alone."""

import statistics
from typing import Any

from bench.engine import InProcess
from bench.gpu.serving import Serving
from bench.gpu.speed import prompt_of
from bench.load import over_http
from bench.report import table

PROMPT_TOKENS = 2048
TARGET = 1.5
_TRIALS = 11


def measure(running: Serving, engine: InProcess) -> dict[str, Any]:
    """Ask both sides in turn for one token."""
    seconds: dict[str, list[float]] = {"server": [], "engine": [], "forward": []}
    for trial in range(-2, _TRIALS):  # the first ones warm up
        prompts = [prompt_of(PROMPT_TOKENS, trial + 2)]
        own = engine.run("runtime", 1, prompts, 1)
        alone = engine.ask({"engine": "runtime", "clients": 1, "prompts": prompts, "max_length": 1, "forward": True})
        now = {
            "server": over_http(running.url, running.model, 1, prompts, 1).seconds,
            "engine": own["seconds"],
            "forward": alone["forward_seconds"],
        }
        if trial >= 0:
            for side, value in now.items():
                seconds[side].append(value)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = medians["server"] / medians["forward"]
    table(
        f"one token after {PROMPT_TOKENS}, medians of {_TRIALS}",
        ["what", "ms", "over the forward pass", "target"],
        [
            [side, f"{1000 * value:.1f}", f"{value / medians['forward']:.2f}", f"{TARGET}" if side == "server" else ""]
            for side, value in medians.items()
        ],
    )
    return {"prompt_tokens": PROMPT_TOKENS, "seconds": seconds, "ratio": ratio, "target": TARGET}
