"""Finds the kind of the checkpoint that a user names without a flag for its kind."""

from trition_repo_gen import checkpoints
from trition_repo_gen.errors import CheckpointError
from trition_repo_gen.repository.options import BuildOptions


def recognise(options: BuildOptions) -> BuildOptions:
    """Return the options with the positional checkpoint as `checkpoint`.

    Of a kind whose multimodal models alone are served, `--multimodal` is implied.

    Raises:
        CheckpointError: a flag names a checkpoint as well, or the folder is no checkpoint.
    """
    path = options.any_checkpoint
    if path is None:
        return options
    flags = {"--megatron-checkpoint": options.megatron_checkpoint, "--nemo-checkpoint": options.nemo_checkpoint}
    for flag, other in (flags | {"-nc": options.checkpoint}).items():
        if other is not None:
            raise CheckpointError(f"{path} and {flag} {other} are two checkpoints; write one of them.")
    kind = checkpoints.recognise(path)
    return options.with_changes(checkpoint=path, multimodal=options.multimodal or kind.multimodal_only)
