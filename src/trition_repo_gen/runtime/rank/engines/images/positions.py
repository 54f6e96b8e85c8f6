"""Three-dimensional positions of text and images for Qwen's multimodal rotary embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor


def positions_of(
    tokens: Sequence[int], grids: Sequence[Sequence[int]], image_token: int, merge_size: int
) -> tuple[Tensor, int]:
    """Return each token's position in time, height and width (Qwen2-VL, arXiv 2409.12191, section 2.1).

    A text token has the same position in all three. An image's tokens have those of its rows and columns, starting
    where the text before it ended; the text after it continues after its longer side.

    Args:
        tokens: the prompt; an image is a run of as many `image_token` as it has merged patches.
        grids: for each image, patches in time, height and width.
        image_token: stands for an image's patches.
        merge_size: patches of a side that the vision tower merges into one token.

    Returns:
        int64[3, tokens], and the position of the token after the prompt.

    Raises:
        ValueError: runs and grids do not match.
    """
    pieces: list[Tensor] = []
    begin = position = 0
    for time, height, width in grids:
        try:
            start = tokens.index(image_token, begin)
        except ValueError:
            raise ValueError(f"the prompt has fewer than {len(grids)} images") from None
        pieces.append(_text(start - begin, position))
        position += start - begin
        sides = (time, height // merge_size, width // merge_size)
        pieces.append(torch.cartesian_prod(*(torch.arange(side) for side in sides)).T + position)
        position += max(sides)
        begin = start + sides[0] * sides[1] * sides[2]
        if begin > len(tokens) or any(token != image_token for token in tokens[start:begin]):
            raise ValueError(f"an image of {begin - start} tokens has another number of places in the prompt")
    if image_token in tokens[begin:]:
        raise ValueError(f"the prompt has more than {len(grids)} images")
    pieces.append(_text(len(tokens) - begin, position))
    return torch.cat(pieces, dim=1), position + len(tokens) - begin


def _text(count: int, position: int) -> Tensor:
    return torch.arange(position, position + count).expand(3, count)
