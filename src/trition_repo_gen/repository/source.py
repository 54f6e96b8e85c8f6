"""Read the checkpoint that a build's options name."""

from pathlib import Path

from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Checkpoint, CheckpointKind, processors
from trition_repo_gen.errors import CheckpointError, system_errors
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository.options import BuildOptions


def read_checkpoint(options: BuildOptions) -> Checkpoint:
    """Read the checkpoint that the options name. Where no flag says its kind, the folder does.

    Raises:
        CheckpointError: they name none or two, or the checkpoint is not served, or not like that.
    """
    path, kind = _named(options)
    _check_processor(options.processor_name)
    replacement = options.processor_name if options.multimodal else options.tokenizer
    return checkpoints.read(path, kind=kind, multimodal=options.multimodal, needs_tokenizer=replacement is None)


def _named(options: BuildOptions) -> tuple[Path, CheckpointKind | None]:
    """Return the checkpoint's path, and its kind where a flag names it.

    Raises:
        CheckpointError: no path is given, two are, or the kind's flag lacks `--multimodal`.
    """
    bridge, nemo, either = options.megatron_checkpoint, options.nemo_checkpoint, options.checkpoint
    if bridge and nemo:
        raise CheckpointError(f"--megatron-checkpoint {bridge} and --nemo-checkpoint {nemo}: write one of them.")
    if nemo and not options.multimodal:
        raise CheckpointError(
            "Of NeMo 2.0 checkpoints the multimodal ones are served: write --multimodal, too; import a language model "
            "with Megatron-Bridge and write --megatron-checkpoint."
        )
    path = bridge or nemo
    flag = "--nemo-checkpoint" if nemo or (options.multimodal and not bridge) else "--megatron-checkpoint"
    if path and either and path != either:
        raise CheckpointError(f"-nc is another name of {flag}, and they say {either} and {path}; write one of them.")
    if path is None and either is None:
        raise CheckpointError(f"There is no checkpoint to serve; write {flag} PATH.")
    if path is None:
        assert either is not None
        return either, None
    return path, checkpoints.KINDS["nemo2" if nemo else "megatron_bridge"]


def _check_processor(name: str | None) -> None:
    if name is None:
        return
    folder = expanded(name)
    with system_errors(
        CheckpointError, f"--processor-name {name} cannot be read", "grant this user access, or write another one"
    ):
        fits = not folder.is_dir() or processors.is_processor(folder)
    if not fits:
        raise CheckpointError(
            f"--processor-name {name} is a folder without {processors.MARKER}; write the folder of the Hugging Face "
            "model, or its name on a hub."
        )
