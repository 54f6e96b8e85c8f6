"""The type that a checkpoint becomes once it has been read."""

from dataclasses import dataclass, field
from pathlib import Path

from trition_repo_gen.checkpoints.index import Shapes
from trition_repo_gen.runtime.common.settings import CheckpointKind, Dtype


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint. Sizes are those of the (language) model, not of one rank's share."""

    kind: CheckpointKind
    root: Path
    """The folder with the tracker file; the iteration folder itself where that stands alone."""
    iteration: Path
    """What the ranks load, absolute; symbolic links are kept: the iteration's folder, of NeMo 2.0 the root."""
    family: str
    """What the model calls itself, for people: `llama`, `qwen3_moe`, `gemma2`, `gpt` …"""
    dtype: Dtype
    """In which the weights are stored."""
    weights_bytes: int
    """All that the shards hold."""
    shapes: Shapes = field(default_factory=dict)
    """Of the weights; empty where the index does not say."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """Equal to `num_attention_heads` where the model has no groups."""
    kv_channels: int
    """Size of one attention head."""
    multi_latent_attention: bool
    kv_latent_size: int = 0
    """Channels that multi-latent attention caches a token and layer; 0 without."""
    vocab_size: int | None
    """Rows of the stored embedding before padding; None where only the tokenizer knows."""
    pads_vocab: bool
    """Whether Megatron pads the embedding until the tensor-parallel ranks can share it."""
    make_vocab_size_divisible_by: int = 128
    """Times the tensor parallel size: what the padded embedding's rows are a multiple of."""
    max_sequence_length: int

    num_moe_experts: int = 0
    """0 means a dense model."""
    moe_ffn_hidden_size: int = 0
    moe_shared_expert_size: int = 0
    moe_router_topk: int = 0
    """Experts that a token goes through."""
    has_dense_layers: bool = True
    """Whether any layer has a feed-forward network without experts."""

    multimodal: bool = False
    num_vision_attention_heads: int = 0
    """0 where the ranks do not share the vision tower's layers."""
    vision_ffn_hidden_size: int = 0
    processor: str = ""
    """A folder or a hub's name; empty where the checkpoint holds it, or the user names one."""

    tokenizer: str
    """A folder, or the name of a tokenizer on a hub."""
    tokenizer_type: str
    """Megatron's name of the kind, such as `HuggingFaceTokenizer`."""

    @property
    def is_moe(self) -> bool:
        """Whether the model has experts."""
        return self.num_moe_experts > 0
