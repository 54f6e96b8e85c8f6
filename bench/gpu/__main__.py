"""Runs the GPU benchmarks in the ranks' environment or any other that has this project's base packages."""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.deployment import CHECKOUT
from bench.gpu import answers, faults, loading, long_prompts, overhead, pictures, speed, truth
from bench.gpu.serving import Host
from bench.report import console, load_average, write

STAGES = ("truth", "answers", "pictures", "faults", "loading", "speed", "overhead", "prefill")


def main() -> int:
    """Run the stages that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)} [default: all]")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs to use, 1 or 2 [default: 1]")
    parser.add_argument("--shape", default="8b", help="8b, 1b or tiny: the model of the stage speed [default: 8b]")
    parser.add_argument("--layouts", help="of the stage speed, comma-separated [default: all that the GPUs allow]")
    models = ",".join(truth.MODELS)
    parser.add_argument("--models", default=models, help=f"of the stage truth, comma-separated [default: {models}]")
    parser.add_argument("--rank-python", default=sys.executable, help="the interpreter that has Megatron")
    parser.add_argument("--nemo-python", help="the interpreter that has NeMo [default: none of its checkpoints]")
    parser.add_argument("--tritonserver", help="the program [default: the one that trgen serve finds]")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".cache/bench/gpu", help="for checkpoints and logs")
    parser.add_argument("--name", default="gpu", help="the results' name: bench/results/NAME.json [default: gpu]")
    arguments = parser.parse_args()
    stages = arguments.stages or list(STAGES)
    if unknown := sorted(set(stages) - set(STAGES)):
        parser.error(f"there is no stage {unknown[0]!r}; write one of {', '.join(STAGES)}")

    load_before = load_average()
    make = Maker(arguments.folder, arguments.rank_python, arguments.nemo_python)
    host = Host(arguments.folder, arguments.rank_python, arguments.tritonserver, arguments.nemo_python)
    results: dict[str, Any] = {"gpus": arguments.gpus}
    for stage in stages:
        started = time.monotonic()
        console.rule(stage)
        if stage == "truth":
            results[stage] = truth.run(host, make.sources(arguments.models.split(",")))
        elif stage == "answers":
            results[stage] = answers.run(host, make.trained(), make.experts(), arguments.gpus)
        elif stage == "pictures":
            results[stage] = pictures.run(host, make.reads_pictures(), make.reads_pictures_nemo(), arguments.gpus)
        elif stage == "faults" and arguments.gpus > 1:
            results[stage] = faults.run(host, make.trained())
        elif stage == "speed":
            layouts = _layouts(arguments.gpus)
            if arguments.layouts:
                layouts = {name: layouts[name] for name in arguments.layouts.split(",")}
            results["shape"] = arguments.shape
            results[stage] = speed.run(host, make.random(arguments.shape), layouts)
        elif stage == "overhead":
            results["shape"] = arguments.shape
            results[stage] = overhead.run(host, make.random(arguments.shape))
        elif stage == "prefill":
            results["shape"] = arguments.shape
            results[stage] = long_prompts.run(host, make.random(arguments.shape))
        elif stage == "loading":
            results["shape"] = arguments.shape
            results[stage] = loading.run(host, make.random(arguments.shape))
        console.print(f"{stage}: {time.monotonic() - started:.0f} s", style="dim")
        write(arguments.name, results, rank_python=Path(arguments.rank_python), load_before=load_before)
    return 0


def _layouts(gpus: int) -> dict[str, tuple[dict[str, Any], tuple[int, ...]]]:
    graphs = {"enable_cuda_graphs": True}
    layouts: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {"one-gpu": (graphs, (1, 64, 256))}
    if gpus > 1:
        layouts["tp2"] = (graphs | {"tensor_parallel_size": 2}, (1, 64, 256))
        layouts["dp2"] = (graphs | {"num_gpus": 2}, (512,))
    return layouts


class Maker:
    """Makes checkpoints, each once."""

    def __init__(self, folder: Path, rank_python: str, nemo_python: str | None):
        self._folder = folder / "checkpoints"
        self._rank_python = rank_python
        self._nemo_python = nemo_python

    def trained(self) -> Path:
        """The trained tiny Llama."""
        return self._converted("trained", CHECKOUT / "examples/tiny_llama")

    def reads_pictures(self) -> Path:
        """The trained tiny Qwen2.5-VL."""
        return self._converted("reads_pictures", pictures.HUGGING_FACE)

    def reads_pictures_nemo(self) -> Path | None:
        """The same as a NeMo 2.0 checkpoint, if NeMo is there."""
        if self._nemo_python is None:
            return None
        out = self._folder / "reads_pictures_nemo"
        if not (out / "context").exists():
            script = CHECKOUT / "examples/make_nemo_checkpoint.py"
            self._run(script, "--dtype", "bfloat16", pictures.HUGGING_FACE, out, python=self._nemo_python)
        return out

    def experts(self) -> tuple[Path, Path]:
        """A tiny random Qwen3-MoE with heads that FlashAttention takes; see `sources`."""
        return self.sources(["qwen3moe_wide"])["qwen3moe_wide"]

    def sources(self, names: Sequence[str]) -> dict[str, tuple[Path, Path]]:
        """Tiny models by name: their folder in Hugging Face's format, and their checkpoint."""
        models = self._folder / "hugging_face"
        found = {"trained": CHECKOUT / "examples/tiny_llama"}
        found |= {name: models / name for name in names if name != "trained"}
        if missing := [name for name, folder in found.items() if not folder.exists()]:
            self._run(CHECKOUT / "tests/models/random_models.py", models, *missing)
        made = {name: (found[name], self._folder / name) for name in names}
        try:
            self._convert([pair for pair in made.values() if not _complete(pair[1])])
        except RuntimeError as error:  # those that are complete can still say something
            console.print(str(error), style="red")
        return {name: pair for name, pair in made.items() if _complete(pair[1])}

    def random(self, shape: str) -> Path:
        """A random Llama of one of `make_random_model.py`'s shapes."""
        out = self._folder / shape
        if not _complete(out):
            tokenizer = CHECKOUT / "examples/tiny_llama"
            self._run(CHECKOUT / "bench/gpu/make_random_model.py", tokenizer, out, "--shape", shape)
        return out

    def _converted(self, name: str, source: Path) -> Path:
        out = self._folder / name
        if not _complete(out):
            self._convert([(source, out)])
        return out

    def _convert(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Make checkpoints of models in Hugging Face's format; the libraries are imported once for all."""
        if pairs:
            folders = itertools.chain.from_iterable(pairs)
            self._run(CHECKOUT / "examples/make_checkpoint.py", "--dtype", "bfloat16", *folders)

    def _run(self, *command: str | Path, python: str | None = None) -> None:
        started = time.monotonic()
        completed = subprocess.run([python or self._rank_python, *command], capture_output=True, text=True, check=False)
        if completed.returncode:
            raise RuntimeError(f"`{command}` failed:\n{completed.stderr[-4000:]}")
        console.print(f"{Path(command[0]).name}: {time.monotonic() - started:.0f} s", style="dim")


def _complete(checkpoint: Path) -> bool:
    return (checkpoint / "latest_checkpointed_iteration.txt").exists()


if __name__ == "__main__":
    sys.exit(main())
