"""Converts Hugging Face models to Megatron-Bridge checkpoints, on a GPU or, without one, on the CPU.

    python examples/make_checkpoint.py HF_FOLDER OUT [HF_FOLDER OUT ...] [--dtype float32|bfloat16] [--force]

Runs in the environment of the ranks (torch, megatron-bridge, transformers). Several pairs share one start of the
libraries, which is most of the time for small models. A pair whose OUT is complete already is skipped. The processor of
a model that reads pictures goes along with its tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

RUNTIME = Path(__file__).resolve().parents[1] / "src" / "trition_repo_gen"
COMPLETE = "latest_checkpointed_iteration.txt"  # Megatron writes it last


class MakeCheckpointError(Exception):
    """A mistake in the arguments, in one sentence."""


def pairs_of(paths: list[Path], is_checkpoint: Callable[[Path], bool]) -> list[tuple[Path, Path]]:
    """The (HF_FOLDER, OUT) pairs, checked as far as that is possible without the libraries.

    Args:
        paths: the arguments.
        is_checkpoint: whether a folder is a checkpoint, whole or half-written, that may be replaced.
    """
    if len(paths) % 2:
        raise MakeCheckpointError(f"«{paths[-1]}» has no partner: write pairs, HF_FOLDER OUT, one after the other.")
    pairs = [(a.resolve(), b.absolute()) for a, b in zip(paths[::2], paths[1::2], strict=True)]
    for source, out in pairs:
        if not (source / "config.json").is_file():
            raise MakeCheckpointError(f"{source} holds no config.json: name a folder in Hugging Face format.")
        if not any(source.glob("*.safetensors")):
            raise MakeCheckpointError(f"{source} holds no *.safetensors: name a folder with weights.")
        if out.exists() and not out.is_dir():
            raise MakeCheckpointError(f"{out} is a file: name a folder for the checkpoint.")
        if out.is_dir() and any(out.iterdir()) and not is_checkpoint(out):
            raise MakeCheckpointError(f"{out} holds other files: name a new folder or an earlier checkpoint.")
    outs = [out for _, out in pairs]
    for out in outs:
        if outs.count(out) > 1:
            raise MakeCheckpointError(f"{out} is named twice: give every model its own OUT.")
    return pairs


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a whole or half-written checkpoint, and so may be replaced."""
    return (folder / COMPLETE).is_file() or any(folder.glob("iter_*"))


def dtype_of(source: Path) -> str:
    """The dtype that config.json names, float32 where it names none."""
    config = json.loads((source / "config.json").read_text("utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def load_libraries() -> bool:
    """Imports megatron.bridge, behind the CPU backend where there is no GPU; returns whether that is so."""
    import torch

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        sys.path.insert(0, str(RUNTIME))
        from runtime.rank import cpu

        cpu.install()
    import megatron.bridge  # noqa: F401

    if on_cpu:
        cpu.after_import()
    return on_cpu


def convert(source: Path, out: Path, dtype: str, on_cpu: bool) -> None:
    """Writes ``out`` whole or not at all: Megatron saves into a sibling that takes its name at the end."""
    import torch
    from megatron.bridge import AutoBridge
    from megatron.bridge.training.model_load_save import temporary_distributed_context
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from transformers import AutoProcessor

    torch_dtype = getattr(torch, dtype)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        with temporary_distributed_context("gloo" if on_cpu else "nccl"):
            model_parallel_cuda_manual_seed(0)
            bridge = AutoBridge.from_hf_pretrained(str(source), torch_dtype=torch_dtype)
            provider = bridge.to_megatron_provider(load_weights=True)
            if on_cpu:
                from runtime.rank import cpu

                cpu.adapt_config(provider, torch_dtype)
            else:
                provider.gradient_accumulation_fusion = False  # a training kernel that Apex has to bring
            provider.finalize()
            model = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=on_cpu)
            bridge.save_megatron_model(model, unfinished, hf_tokenizer_path=str(source))
        for settings in unfinished.glob("iter_*/run_config.yaml"):
            settings.write_text(settings.read_text("utf-8").replace(str(unfinished), str(out)), "utf-8")
            if (source / "preprocessor_config.json").is_file():  # else it would have to be looked for at `source`
                AutoProcessor.from_pretrained(source).save_pretrained(settings.parent / "tokenizer")
        shutil.rmtree(out, ignore_errors=True)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="HF_FOLDER OUT")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights; default: as in config.json")
    parser.add_argument("--force", action="store_true", help="convert again what is complete already")
    arguments = parser.parse_args()
    try:
        pairs = pairs_of(arguments.paths, is_checkpoint)
    except MakeCheckpointError as error:
        print(f"make_checkpoint: {error}", file=sys.stderr)
        return 2
    left = [pair for pair in pairs if arguments.force or not (pair[1] / COMPLETE).is_file()]
    for _, out in pairs:
        if out not in [o for _, o in left]:
            print(f"{out} is complete already: use --force to convert again.")
    if left:
        on_cpu = load_libraries()
        for source, out in left:
            out.parent.mkdir(parents=True, exist_ok=True)
            convert(source, out, arguments.dtype or dtype_of(source), on_cpu)
            print(f"{out} is written.")
    return 0


if __name__ == "__main__":  # needed beyond habit: saving spawns a process that imports this file again
    sys.exit(main())
