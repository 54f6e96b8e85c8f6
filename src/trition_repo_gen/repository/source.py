"""From the options that name a checkpoint to what it says."""

from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Checkpoint, processors
from trition_repo_gen.errors import CheckpointError, system_errors
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository.options import BuildOptions


def read_checkpoint(options: BuildOptions) -> Checkpoint:
    """Read the checkpoint that the options name.

    Raises:
        CheckpointError: they name none or two, or it is not served as they say.
    """
    bridge, nemo, either = options.megatron_checkpoint, options.nemo_checkpoint, options.checkpoint
    if bridge and nemo:
        raise CheckpointError(f"--megatron-checkpoint {bridge} and --nemo-checkpoint {nemo}: write one of them.")
    name, path = (
        ("--nemo-checkpoint", nemo)
        if nemo or (options.multimodal and not bridge)
        else (
            "--megatron-checkpoint",
            bridge,
        )
    )
    if path and either and path != either:
        raise CheckpointError(f"-nc is another name of {name}, and they say {either} and {path}; write one of them.")
    path = path or either
    if path is None:
        needed = "--megatron-checkpoint PATH" if not options.multimodal else "--nemo-checkpoint PATH"
        raise CheckpointError(f"There is no checkpoint to serve; write {needed}.")
    if nemo and not options.multimodal:
        raise CheckpointError(
            "Of NeMo 2.0 checkpoints the multimodal ones are served: write --multimodal, too; import a language model "
            "with Megatron-Bridge and write --megatron-checkpoint."
        )
    _check_processor(options.processor_name)
    if name == "--nemo-checkpoint":
        return checkpoints.read_nemo2(path, needs_processor=options.processor_name is None)
    asked = options.processor_name if options.multimodal else options.tokenizer
    return checkpoints.read(path, multimodal=options.multimodal, needs_tokenizer=asked is None)


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
