"""The kinds of checkpoint, by the names that CHECKPOINT_KIND has in config.pbtxt. Standard library only.

A name is also that of two modules: `checkpoints/NAME.py`, which reads a checkpoint of this kind for `trgen build`, and
`runtime/rank/loaders/NAME.py`, which loads one on the ranks. To add a kind, write both and add its name here.
"""

import typing
from typing import Literal

CheckpointKindName = Literal["nemo2", "megatron_bridge"]
"""In the order in which a folder is compared with them: a NeMo 2.0 checkpoint's folder of weights alone could be one
iteration of a Megatron-Bridge checkpoint as well."""

NAMES: tuple[CheckpointKindName, ...] = typing.get_args(CheckpointKindName)
