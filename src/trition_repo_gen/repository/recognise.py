"""Finds the kind of the checkpoint that a user names without a flag for its kind."""

from trition_repo_gen.checkpoints import kinds
from trition_repo_gen.errors import CheckpointError, system_errors
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository.options import BuildOptions


def recognise(options: BuildOptions) -> BuildOptions:
    """Return the options with the checkpoint under the flag of its kind.

    A NeMo 2.0 checkpoint is served as a multimodal model, since no others of that kind are. Whatever else is there is
    read as a Megatron-Bridge checkpoint, whose reader says what it is.

    Raises:
        CheckpointError: a flag names a checkpoint as well, or the folder cannot be looked at.
    """
    path = options.any_checkpoint
    if path is None:
        return options
    flags = {"--megatron-checkpoint": options.megatron_checkpoint, "--nemo-checkpoint": options.nemo_checkpoint}
    for flag, other in (flags | {"-nc": options.checkpoint}).items():
        if other is not None:
            raise CheckpointError(f"{path} and {flag} {other} are two checkpoints; write one of them.")
    with system_errors(
        CheckpointError, f"{path} cannot be read", "grant this user access, or write another checkpoint"
    ):
        is_nemo2 = kinds.nemo2_root(expanded(path)) is not None
    if is_nemo2:
        return options.with_changes(nemo_checkpoint=path, multimodal=True)
    return options.with_changes(megatron_checkpoint=path)
