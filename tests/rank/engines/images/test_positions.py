"""Positions of a prompt's tokens are those of Hugging Face's Qwen2.5-VL."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from trition_repo_gen.runtime.rank.engines.images.positions import positions_of

IMAGE, START = 90, 91
MERGE_SIZE = 2

Grid = list[int]


def prompt(*grids: Grid) -> list[int]:
    """Return a prompt with an image of each grid."""
    tokens = [1, 2, 3]
    for time, height, width in grids:
        tokens += [START, *[IMAGE] * (time * height * width // MERGE_SIZE**2), 5, 6]
    return [*tokens, 7]


@pytest.mark.parametrize("grids", [[], [[1, 4, 6]], [[1, 8, 2], [1, 2, 2]], [[1, 6, 6], [1, 4, 10], [1, 2, 4]]])
def test_positions_are_those_of_hugging_face(grids: list[Grid]) -> None:
    model = SimpleNamespace(config=Qwen2_5_VLConfig(image_token_id=IMAGE, vision_start_token_id=START))
    model.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(model)
    tokens = prompt(*grids)
    kinds = torch.tensor([[int(token == IMAGE) for token in tokens]])
    expected, delta = Qwen2_5_VLModel.get_rope_index(
        model, torch.tensor([tokens]), kinds, torch.tensor(grids) if grids else None
    )

    positions, following = positions_of(tokens, grids, IMAGE, MERGE_SIZE)

    assert torch.equal(positions, expected[:, 0])
    assert following == len(tokens) + int(delta)


@pytest.mark.parametrize(
    ("tokens", "grids", "sentence"),
    [
        (prompt(), [[1, 4, 4]], "the prompt has fewer than 1 images"),
        (prompt([1, 4, 4]), [], "the prompt has more than 0 images"),
        (prompt([1, 4, 4]), [[1, 4, 6]], "an image of 6 tokens has another number of places in the prompt"),
    ],
)
def test_a_prompt_with_other_images_than_are_sent_is_refused(
    tokens: list[int], grids: list[Grid], sentence: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        positions_of(tokens, grids, IMAGE, MERGE_SIZE)
    assert str(refusal.value) == sentence
