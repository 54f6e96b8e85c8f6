"""Where a decoding step's time goes: the engine in-process, under Python's profiler and under torch's.

    python bench/gpu/profile_step.py REPOSITORY/MODEL/1 [--sequences N ...] [--steps N] [--set NAME=VALUE ...]

Runs in the ranks' environment on one GPU, for a repository of one rank.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import in_process

PROMPT_TOKENS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version_folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="only milliseconds")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings to change")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.version_folder))
    config = (arguments.version_folder.parent / "config.pbtxt").read_text()
    found = re.findall(r'^parameters { key: "(\w+)", value: { string_value: "(.*)" } }', config, re.MULTILINE)
    changes = dict(change.upper().split("=", 1) for change in arguments.set)
    changes = {name: value.lower() for name, value in changes.items()}
    os.environ["TRGEN_SETTINGS"] = json.dumps(dict(found) | changes)
    started = time.perf_counter()
    engine = in_process.RuntimeSequences(in_process.load(arguments.version_folder))

    print(f"ready after {time.perf_counter() - started:.1f} s")

    import torch

    ids = itertools.count(1)

    def run(sequences: int) -> list[float]:
        """Return the milliseconds of each step; the prompts are read in the first ones."""
        for index in range(sequences):
            engine.add(next(ids), [10 + (index + column) % 200 for column in range(PROMPT_TOKENS)], arguments.steps)
        seconds, left = [], sequences
        while left:
            started = time.perf_counter()
            left -= len(engine.loop.run_until_complete(engine.step()))
            seconds.append(time.perf_counter() - started)
        torch.cuda.synchronize()
        return [1000 * value for value in seconds]

    for sequences in arguments.sequences:
        run(sequences)
        steps = run(sequences)
        print(
            f"== {sequences} sequences: {statistics.median(steps):.2f} ms per step, {sum(steps):.0f} ms in all, ",
            end="",
        )
        print(
            f"{1000 * sequences * arguments.steps / sum(steps):.0f} tokens/s, "
            f"first steps {[round(s) for s in steps[:6]]}"
        )
        if arguments.quick:
            continue
        profile = cProfile.Profile()
        profile.runcall(run, sequences)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(28)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as gpu:
            run(sequences)
        print(gpu.key_averages().table(sort_by="cuda_time_total", row_limit=24, max_name_column_width=60))


if __name__ == "__main__":
    main()
