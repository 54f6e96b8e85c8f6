"""Runs benchmarks one after another. `make bench` runs all of them."""

import argparse
import os
import sys
from pathlib import Path

from bench import cancellation, cli, first_token, overhead, prefill, recompute, rest, start
from bench.deployment import CHECKOUT, tiny_checkpoint, trained_checkpoint

_BENCHMARKS = {
    "cancellation": cancellation.run,
    "cli": cli.run,
    "first-token": first_token.run,
    "overhead": overhead.run,
    "prefill": prefill.run,
    "recompute": lambda checkpoint, rank_python, trials: recompute.run(trials),
    "rest": rest.run,
    "start": start.run,
}


_TRAINED = ("cancellation", "first-token", "prefill")
"""With the trained tiny model, the others with a random one."""


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(_BENCHMARKS)} or all [default: all]")
    parser.add_argument("--checkpoint", type=Path, help="a Megatron-Bridge checkpoint [default: a tiny model]")
    parser.add_argument("--trials", type=int, help="runs of each side [default: each benchmark's own]")
    parser.add_argument(
        "--rank-python",
        type=Path,
        default=os.environ.get("TRGEN_RANK_PYTHON", CHECKOUT / ".envs/megatron/bin/python"),
        help="the interpreter that has Megatron [default: $TRGEN_RANK_PYTHON or the checkout's]",
    )
    arguments = parser.parse_args()
    names = arguments.names or ["all"]
    if unknown := sorted(set(names) - {"all", *_BENCHMARKS}):
        parser.error(f"there is no benchmark {unknown[0]!r}; write one of {', '.join(_BENCHMARKS)} or all")
    # Nothing that is measured may wait for what a model hub answers.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    for name, benchmark in _BENCHMARKS.items():
        if name in names or "all" in names:
            make = trained_checkpoint if name in _TRAINED else tiny_checkpoint
            benchmark(arguments.checkpoint or make(arguments.rank_python), arguments.rank_python, arguments.trials)
    return 0


if __name__ == "__main__":
    sys.exit(main())
