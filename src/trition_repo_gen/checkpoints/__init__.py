"""What a checkpoint on disk says, read without torch and without loading a weight."""

from trition_repo_gen.checkpoints import processors
from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.layout import check, sequence_length, split_layers
from trition_repo_gen.checkpoints.megatron_bridge import read
from trition_repo_gen.checkpoints.nemo2 import read as read_nemo2
from trition_repo_gen.runtime.common.layout import Layout

__all__ = ["Checkpoint", "Layout", "check", "processors", "read", "read_nemo2", "sequence_length", "split_layers"]
