"""What a checkpoint on disk says, read without torch and without loading a weight."""

from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.layout import Layout, check, sequence_length
from trition_repo_gen.checkpoints.megatron_bridge import read

__all__ = ["Checkpoint", "Layout", "check", "read", "sequence_length"]
