"""Computes the bytes of weights of each pipeline stage's ranks from the shapes of the checkpoint's weights.

Which weights tensor-parallel ranks share is what Megatron Core 0.19.2's `sharded_state_dict` methods say of each layer.
"""

import math
import re
from collections.abc import Sequence

from trition_repo_gen.checkpoints import Checkpoint, Layout, split_layers

_COLUMNS = r"(linear_(qkv|q|kv|q_proj|q_up_proj|kv_up_proj|fc1)|word_embeddings|output_layer|eh_proj)\.(weight|bias)"
_ROWS = r"linear_(proj|fc2)\.weight"
_SHARED = re.compile(rf"(^|\.)({_COLUMNS}|{_ROWS}|softmax_offset)$")
"""Weights that tensor-parallel ranks share. Each rank has all of the others: norms, routers, biases added last."""
_VISION = re.compile(r"(^|\.)(visual|vision_model|vision_projection)\.")
_EXPERT = re.compile(r"\.experts\.")
_LAYER = re.compile(r"(^|\.)decoder\.layers\.((?P<index>\d+)\.)?")
"""Equal layers are stored as one weight; layers that differ have a number each."""
_MULTI_TOKEN = re.compile(r"(^|\.)mtp\.")
"""Layers for the tokens after the next one, which are built but never run here."""
_LAST = re.compile(rf"(^|\.)(decoder\.final_layernorm|output_layer)\.|{_MULTI_TOKEN.pattern}")
_EMBEDDING = re.compile(r"(^|\.)embedding\.word_embeddings\.weight$")


def stage_layers(checkpoint: Checkpoint, layout: Layout) -> Sequence[int]:
    """Return how many layers each pipeline stage has."""
    layers = split_layers(checkpoint.num_layers, layout)
    assert layers is not None, "the layout has been checked"
    return layers


def stage_weights(checkpoint: Checkpoint, layout: Layout, item_size: int) -> Sequence[int]:
    """Return the bytes of weights on one rank of each pipeline stage.

    Args:
        checkpoint: the model. Without `shapes`, the result is estimated from the size of its files.
        layout: with every size chosen.
        item_size: bytes of a number in the data type that is served.
    """
    layers = stage_layers(checkpoint, layout)
    if not checkpoint.shapes:
        return [_by_files(checkpoint, layout, item_size, each) for each in layers]
    starts = [sum(layers[:stage]) for stage in range(len(layers))]
    numbers = [0.0] * len(layers)
    for name, shape in checkpoint.shapes.items():
        share = _share(name, shape, checkpoint, layout)
        layer = None if _VISION.search(name) else _LAYER.search(name)
        if layer is None:
            numbers[-1 if _LAST.search(name) else 0] += share
            continue
        for stage, (start, count) in enumerate(zip(starts, layers, strict=True)):
            if layer["index"] is None:
                numbers[stage] += share * count / checkpoint.num_layers
            elif start <= int(layer["index"]) < start + count:
                numbers[stage] += share
    if len(layers) > 1:
        numbers[-1] += _copied_embedding(checkpoint, layout)
    return [math.ceil(number) * item_size for number in numbers]


def vocabulary(checkpoint: Checkpoint, layout: Layout) -> int:
    """Return the rows of the whole embedding, padded to a multiple that the tensor-parallel ranks can share."""
    stored = next((shape[0] for name, shape in checkpoint.shapes.items() if _EMBEDDING.search(name)), 0)
    rows = checkpoint.vocab_size or stored
    multiple = checkpoint.make_vocab_size_divisible_by * layout.tensor_parallel_size
    return math.ceil(rows / multiple) * multiple if checkpoint.pads_vocab else rows


def _share(name: str, shape: Sequence[int], checkpoint: Checkpoint, layout: Layout) -> float:
    """Return how many numbers of a weight one rank holds."""
    if name.endswith(("word_embeddings.weight", "output_layer.weight", "output_layer.bias")):
        shape = (vocabulary(checkpoint, layout), *shape[1:])
    ranks = layout.tensor_parallel_size
    if _EXPERT.search(name):
        ranks = layout.expert_tensor_parallel_size
    elif _VISION.search(name) and not checkpoint.num_vision_attention_heads:
        ranks = 1
    numbers = math.prod(shape) / (ranks if _SHARED.search(name) else 1)
    return numbers / layout.expert_parallel_size if _EXPERT.search(name) else numbers


def _copied_embedding(checkpoint: Checkpoint, layout: Layout) -> float:
    """Return the numbers of the last stage's copy of the embedding: as output layer or for later tokens."""
    shapes = checkpoint.shapes
    is_tied = not any(name.endswith("output_layer.weight") for name in shapes)
    if not is_tied and not any(_MULTI_TOKEN.search(name) for name in shapes):
        return 0.0
    return sum(_share(name, shape, checkpoint, layout) for name, shape in shapes.items() if _EMBEDDING.search(name))


def _by_files(checkpoint: Checkpoint, layout: Layout, item_size: int, layers: int) -> int:
    """Return an estimate of the bytes on a rank with a number of layers, as if all weights were shared layers."""
    ranks = max(layout.tensor_parallel_size, layout.expert_parallel_size * layout.expert_tensor_parallel_size)
    stored = 4 if checkpoint.dtype == "float32" else 2
    return math.ceil(checkpoint.weights_bytes * item_size / stored * layers / checkpoint.num_layers / ranks)
