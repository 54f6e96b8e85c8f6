"""The layout of a deployment: over how many ranks a model is sharded, and how. Standard library only."""

import math
from dataclasses import dataclass

from .parameters import Parameters, TextOnly


@dataclass(frozen=True, kw_only=True)
class Layout(Parameters):
    """The layout. Change it with `trgen build`, which checks that the sizes fit the model and each other."""

    tensor_parallel_size: int = 1
    """Ranks that share every layer."""
    pipeline_parallel_size: int = 1
    """Pipeline stages that the layers are spread over."""
    context_parallel_size: int = 1
    """Context-parallel ranks. In serving they repeat the work of each other."""
    expert_parallel_size: int = 1
    """Ranks that the experts are spread over."""
    expert_tensor_parallel_size: TextOnly[int] = 0
    """Ranks that share every expert."""
    sequence_parallel: TextOnly[bool] = False
    """Split the tokens of the layers' norms over the tensor-parallel ranks."""
    num_layers_in_first_pipeline_stage: TextOnly[int] = 0
    """Layers of the first pipeline stage; 0 is an even share."""
    num_layers_in_last_pipeline_stage: TextOnly[int] = 0
    """Layers of the last pipeline stage; 0 is an even share."""
    account_for_embedding_in_pipeline_split: TextOnly[bool] = False
    """Count the embedding as a layer of the first pipeline stage."""
    account_for_loss_in_pipeline_split: TextOnly[bool] = False
    """Count the output layer as a layer of the last pipeline stage."""
    num_gpus: int = 0
    """GPUs per node, on a CPU rank processes. A multiple of what one replica needs runs more replicas."""
    num_nodes: int = 1
    """Nodes, each with that many GPUs."""

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.num_gpus * self.num_nodes

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one replica of the dense layers."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    @property
    def data_parallel_size(self) -> int:
        """Replicas of the dense layers; each takes requests of its own."""
        return self.world_size // self.model_parallel_size

    @property
    def smallest_world(self) -> int:
        """Ranks that both the dense layers and the experts can be laid over."""
        dense = self.tensor_parallel_size * self.context_parallel_size
        experts = self.expert_parallel_size * max(self.expert_tensor_parallel_size, 1)
        return self.pipeline_parallel_size * math.lcm(dense, experts)

    def describe(self) -> str:
        """Return the resolved layout as a line: `TP=2 PP=1 on 4 GPUs, 2 replicas`."""
        names = {
            "TP": self.tensor_parallel_size,
            "PP": self.pipeline_parallel_size,
            "CP": self.context_parallel_size,
            "EP": self.expert_parallel_size,
        }
        sizes = " ".join(f"{name}={size}" for name, size in names.items() if size > 1 or name in ("TP", "PP"))
        if self.expert_parallel_size > 1:
            sizes += f" ETP={self.expert_tensor_parallel_size}"
        sequence = " with sequence parallel" if self.sequence_parallel else ""
        gpus = f"{self.num_gpus} GPU{'' if self.num_gpus == 1 else 's'}"
        nodes = f" × {self.num_nodes} nodes" if self.num_nodes > 1 else ""
        replicas = f", {self.data_parallel_size} replicas" if self.data_parallel_size > 1 else ""
        return f"{sizes}{sequence} on {gpus}{nodes}{replicas}"
