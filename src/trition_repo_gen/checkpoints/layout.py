"""Check how a model is sharded over ranks: which layouts Megatron Core can build, and which size to use instead.

The rules are those of `megatron/core/transformer/transformer_config.py` (`__post_init__`), `transformer_block.py`
(`get_num_layers_to_build`) and `parallel_state.py` (`initialize_model_parallel`), all 0.19.2.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.errors import LayoutError

DEFAULT_SEQUENCE_LENGTH = 4096


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A parallel layout. Sizes are in ranks; a size of 0 is chosen by `check`, 0 layers mean an even split."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    expert_parallel_size: int = 1
    expert_tensor_parallel_size: int = 0
    sequence_parallel: bool = False
    num_layers_in_first_pipeline_stage: int = 0
    num_layers_in_last_pipeline_stage: int = 0
    account_for_embedding_in_pipeline_split: bool = False
    account_for_loss_in_pipeline_split: bool = False
    num_gpus: int = 0
    """Per node."""
    num_nodes: int = 1

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.num_gpus * self.num_nodes

    @property
    def replica_size(self) -> int:
        """Ranks of one replica of the dense layers."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    @property
    def smallest_world(self) -> int:
        """The smallest number of ranks over which both the dense layers and the experts can be sharded."""
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
        nodes = f" × {self.num_nodes} nodes" if self.num_nodes > 1 else ""
        replicas = self.world_size // self.replica_size
        return (
            f"{sizes}{sequence} on {_count(self.num_gpus, 'GPU')}{nodes}"
            f"{f', {replicas} replicas' if replicas > 1 else ''}"
        )


def check(checkpoint: Checkpoint, layout: Layout) -> tuple[Layout, list[str]]:
    """Return the layout with every size chosen, and notes for the user about it.

    Raises:
        LayoutError: the model cannot be sharded that way, or there are too few GPUs for it.
    """
    notes: list[str] = []
    if checkpoint.multimodal and layout.context_parallel_size > 1:
        raise LayoutError(
            "A multimodal model is not sharded by context; write --context-parallel-size 1, and --tensor-parallel-size "
            "or --num-gpus for more ranks."
        )
    _check_tensor(checkpoint, layout.tensor_parallel_size)
    _check_pipeline(checkpoint, layout, notes)
    layout = _resolve_experts(checkpoint, layout, notes)
    if layout.context_parallel_size > 1:
        notes.append(
            f"--context-parallel-size {layout.context_parallel_size}: context-parallel ranks repeat the work in "
            "serving; use --tensor-parallel-size, or more replicas with --num-gpus, instead."
        )
    if layout.sequence_parallel and layout.tensor_parallel_size == 1:
        notes.append("--sequence-parallel has no effect with one tensor-parallel rank.")
        layout = replace(layout, sequence_parallel=False)
    return _resolve_gpus(layout), notes


def sequence_length(checkpoint: Checkpoint, asked: int | None) -> tuple[int, list[str]]:
    """Return the longest sequence to serve, in tokens, and a note where the default is above the model's.

    Raises:
        LayoutError: `asked` is above the model's.
    """
    longest = checkpoint.max_sequence_length
    if asked is not None and asked > longest:
        raise LayoutError(
            f"The model takes sequences of at most {longest} tokens, not {asked}; "
            f"write --inference-max-seq-length {longest}."
        )
    if asked is None and longest < DEFAULT_SEQUENCE_LENGTH:
        return longest, [f"The sequence length is {longest} tokens, the model's, instead of {DEFAULT_SEQUENCE_LENGTH}."]
    return asked or DEFAULT_SEQUENCE_LENGTH, []


def _check_tensor(checkpoint: Checkpoint, size: int) -> None:
    def obstacle(ranks: int) -> str | None:
        heads, groups = checkpoint.num_attention_heads, checkpoint.num_query_groups
        if heads % ranks:
            return f"{heads} attention heads"
        if groups % ranks and ranks % groups:
            return f"{groups} query groups"
        if checkpoint.has_dense_layers and checkpoint.ffn_hidden_size % ranks:
            return f"a feed-forward size of {checkpoint.ffn_hidden_size}"
        if checkpoint.moe_shared_expert_size % ranks:
            return f"shared experts with a feed-forward size of {checkpoint.moe_shared_expert_size}"
        if checkpoint.vocab_size and not checkpoint.pads_vocab and checkpoint.vocab_size % ranks:
            return f"a vocabulary of {checkpoint.vocab_size}"
        if checkpoint.num_vision_attention_heads % ranks:
            return f"{checkpoint.num_vision_attention_heads} attention heads in its vision tower"
        if checkpoint.vision_ffn_hidden_size % ranks:
            return f"a feed-forward size of {checkpoint.vision_ffn_hidden_size} in its vision tower"
        return None

    if what := obstacle(size):
        instead = _largest(size, lambda ranks: obstacle(ranks) is None)
        raise LayoutError(
            f"The model has {what}, which {size} tensor-parallel ranks cannot share; "
            f"write --tensor-parallel-size {instead}."
        )


def _check_pipeline(checkpoint: Checkpoint, layout: Layout, notes: list[str]) -> None:
    layers, stages = checkpoint.num_layers, layout.pipeline_parallel_size
    first, last = layout.num_layers_in_first_pipeline_stage, layout.num_layers_in_last_pipeline_stage
    accounts = layout.account_for_embedding_in_pipeline_split or layout.account_for_loss_in_pipeline_split
    if (first or last) and accounts:
        raise LayoutError(
            "The --account-for-…-in-pipeline-split flags choose the layers of the first and last stage themselves; "
            "write either them or --num-layers-in-first-pipeline-stage and --num-layers-in-last-pipeline-stage."
        )
    if stages == 1:
        if first or last:
            raise LayoutError(
                f"There is one pipeline stage, which holds all {layers} layers; write --pipeline-parallel-size 2 or "
                "leave --num-layers-in-first-pipeline-stage and --num-layers-in-last-pipeline-stage away."
            )
        if accounts:
            notes.append("--account-for-…-in-pipeline-split has no effect with one pipeline stage.")
        return
    if split_layers(layers, layout):
        return
    if first or last:
        flag, given = ("first", first) if first else ("last", last)
        candidates = sorted(range(1, layers), key=lambda count: abs(count - given))
        better = next((count for count in candidates if split_layers(layers, _with_edge(layout, flag, count))), None)
        if better is not None:
            raise LayoutError(
                f"The {layers} layers cannot be spread over {stages} pipeline stages with {given} in the {flag} one; "
                f"write --num-layers-in-{flag}-pipeline-stage {better}."
            )
    better = _largest(
        stages, lambda size: split_layers(layers, replace(layout, pipeline_parallel_size=size)) is not None
    )
    counted = f"{layers} layers" + (" (with embedding or loss counted as one)" if accounts else "")
    raise LayoutError(
        f"The model has {counted}, which {stages} pipeline stages cannot share; "
        f"write --pipeline-parallel-size {better}."
    )


def split_layers(layers: int, layout: Layout) -> list[int] | None:
    """Return how many layers each pipeline stage gets, None where Megatron would refuse or leave a stage empty."""
    stages = layout.pipeline_parallel_size
    first, last = layout.num_layers_in_first_pipeline_stage, layout.num_layers_in_last_pipeline_stage
    if stages == 1:
        return [layers] if not (first or last) else None
    if first or last:
        left, places = layers - first - last, stages - bool(first) - bool(last)
        if left < 0 or bool(left) != bool(places) or (places and left % places):
            return None
        middle = [left // places] * places if places else []
        return [first] * bool(first) + middle + [last] * bool(last)
    embedding, loss = layout.account_for_embedding_in_pipeline_split, layout.account_for_loss_in_pipeline_split
    each, rest = divmod(layers + embedding + loss, stages)
    split = [each - embedding, *[each] * (stages - 2), each - loss]
    return None if rest or min(split) < 1 else split


def _with_edge(layout: Layout, flag: str, layers: int) -> Layout:
    if flag == "first":
        return replace(layout, num_layers_in_first_pipeline_stage=layers)
    return replace(layout, num_layers_in_last_pipeline_stage=layers)


def _resolve_experts(checkpoint: Checkpoint, layout: Layout, notes: list[str]) -> Layout:
    experts, size = checkpoint.num_moe_experts, layout.expert_parallel_size
    if not experts:
        if size > 1:
            raise LayoutError(
                f"The model has no experts that {size} ranks could share; write --expert-parallel-size 1 and shard it "
                "with --tensor-parallel-size."
            )
        if layout.expert_tensor_parallel_size:
            notes.append("--expert-tensor-parallel-size has no effect on a model without experts.")
        return replace(layout, expert_tensor_parallel_size=layout.tensor_parallel_size)
    if experts % size:
        instead = _largest(size, lambda ranks: experts % ranks == 0)
        raise LayoutError(
            f"The model has {experts} experts, which {size} ranks cannot share evenly; "
            f"write --expert-parallel-size {instead}."
        )
    ranks = layout.expert_tensor_parallel_size or (layout.tensor_parallel_size if size == 1 else 1)
    width = checkpoint.moe_ffn_hidden_size
    if width % ranks:
        instead = _largest(ranks, lambda number: width % number == 0)
        raise LayoutError(
            f"An expert has a feed-forward size of {width}, which {ranks} ranks cannot share; "
            f"write --expert-tensor-parallel-size {instead}."
        )
    return replace(layout, expert_tensor_parallel_size=ranks)


def _resolve_gpus(layout: Layout) -> Layout:
    needed, nodes = layout.smallest_world, layout.num_nodes
    per_node = needed // math.gcd(needed, nodes)
    """GPUs per node have to be a multiple of this: the world size has to be a multiple of the layout's ranks."""
    given = layout.num_gpus
    if not given:
        return replace(layout, num_gpus=per_node)
    where = _count(given, "GPU") + (f" on each of {nodes} nodes" if nodes > 1 else "")
    if given * nodes < needed:
        per = " per node" if nodes > 1 else ""
        raise LayoutError(
            f"The layout needs {needed} ranks ({_product(layout)}), one GPU each, and there are {given * nodes} "
            f"({where}); write --num-gpus {per_node}{per} or shard the model over fewer ranks."
        )
    if given % per_node:
        below = given // per_node * per_node
        nearest = below if below and given - below <= below + per_node - given else below + per_node
        raise LayoutError(
            f"The layout needs a multiple of {needed} ranks ({_product(layout)}), which {where} are not; "
            f"write --num-gpus {nearest}."
        )
    return layout


def _product(layout: Layout) -> str:
    sizes = {
        "TP": layout.tensor_parallel_size,
        "PP": layout.pipeline_parallel_size,
        "CP": layout.context_parallel_size,
        "EP": layout.expert_parallel_size,
        "ETP": layout.expert_tensor_parallel_size if layout.expert_parallel_size > 1 else 1,
    }
    return ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "TP 1"


def _largest(at_most: int, usable: Callable[[int], bool]) -> int:
    candidates: Iterable[int] = range(at_most - 1, 0, -1)
    return next((size for size in candidates if usable(size)), 1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
