"""Where a decoding step's time goes: the engine in-process, under Python's profiler and under torch's.

    python bench/gpu/profile_step.py REPOSITORY/MODEL/1 [--rows N] [--steps N]

Runs in the ranks' environment on one GPU, for a repository of one rank.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import in_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version_folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--steps", type=int, default=64)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.version_folder))
    config = (arguments.version_folder.parent / "config.pbtxt").read_text()
    found = re.findall(r'^parameters { key: "(\w+)", value: { string_value: "(.*)" } }', config, re.MULTILINE)
    os.environ["TRGEN_SETTINGS"] = json.dumps(dict(found))
    engine = in_process.RuntimeRows(in_process.load(arguments.version_folder))

    import torch

    ids = itertools.count(1)

    def run(rows: int) -> float:
        prompts = [[10 + (index + column) % 200 for column in range(128)] for index in range(rows)]
        loop = in_process.closed_loop(engine, ids, rows, prompts, arguments.steps)
        seconds, _ = engine.loop.run_until_complete(loop)
        torch.cuda.synchronize()
        return 1000 * seconds / arguments.steps

    for rows in arguments.rows:
        run(rows)
        started = time.perf_counter()
        print(f"== {rows} rows: {run(rows):.2f} ms per step, prefill included, {time.perf_counter() - started:.2f} s")
        profile = cProfile.Profile()
        profile.runcall(run, rows)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(28)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as gpu:
            run(rows)
        print(gpu.key_averages().table(sort_by="cuda_time_total", row_limit=16, max_name_column_width=60))


if __name__ == "__main__":
    main()
