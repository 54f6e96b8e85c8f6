"""The type of a checkpoint that was read."""

from dataclasses import dataclass, field
from pathlib import Path

from trition_repo_gen.checkpoints.index import Shapes
from trition_repo_gen.runtime.common.checkpoint_kinds import CheckpointKindName
from trition_repo_gen.runtime.common.settings import Dtype


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint. Sizes are those of the whole language model, not of one rank's shard."""

    kind: CheckpointKindName
    root: Path
    """The folder with the tracker file; the iteration's folder where there is no tracker."""
    iteration: Path
    """The folder that the ranks load: the iteration's, for NeMo 2.0 the root. Absolute; symbolic links are kept."""
    family: str
    """The family's name for people: `llama`, `qwen3_moe`, `gemma2`, `gpt` …"""
    dtype: Dtype
    """Of the stored weights."""
    weights_bytes: int
    """Size of all shards."""
    shapes: Shapes = field(default_factory=dict)
    """Of the weights; empty where the index cannot be read."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """Equal to `num_attention_heads` without grouped-query attention."""
    kv_channels: int
    """Size of one attention head."""
    multi_latent_attention: bool
    kv_latent_size: int = 0
    """Channels that multi-latent attention caches per token and layer; 0 without it."""
    vocab_size: int | None
    """Tokens of the vocabulary before padding; None where only the tokenizer has the number."""
    pads_vocab: bool
    """Whether Megatron pads the embedding so that the tensor-parallel ranks can shard it."""
    make_vocab_size_divisible_by: int = 128
    """The padded vocabulary is a multiple of this times the tensor parallel size."""
    max_sequence_length: int

    num_moe_experts: int = 0
    """0 means a dense model."""
    moe_ffn_hidden_size: int = 0
    moe_shared_expert_size: int = 0
    moe_router_topk: int = 0
    """Experts per token."""
    has_dense_layers: bool = True
    """Whether any layer has a dense feed-forward network."""

    multimodal: bool = False
    num_vision_attention_heads: int = 0
    """0 where tensor-parallel ranks do not shard the vision tower."""
    vision_ffn_hidden_size: int = 0
    processor: str = ""
    """Folder or hub name of the processor; empty where the checkpoint holds one, or the user names one."""

    tokenizer: str
    """Folder or hub name of the tokenizer."""
    tokenizer_type: str
    """Megatron's name for its type, such as `HuggingFaceTokenizer`."""

    @property
    def is_moe(self) -> bool:
        """Whether the model has experts."""
        return self.num_moe_experts > 0
