"""Read what a checkpoint on disk says, without torch and without loading a weight."""

from trition_repo_gen.checkpoints import processors
from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.checkpoint_kind import CheckpointKind, RanksEnvironment
from trition_repo_gen.checkpoints.kinds import KINDS, read, recognise
from trition_repo_gen.checkpoints.layout import Layout, check, sequence_length, split_layers

__all__ = [
    "KINDS",
    "Checkpoint",
    "CheckpointKind",
    "Layout",
    "RanksEnvironment",
    "check",
    "processors",
    "read",
    "recognise",
    "sequence_length",
    "split_layers",
]
