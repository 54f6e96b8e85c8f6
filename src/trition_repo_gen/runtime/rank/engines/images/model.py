"""What the engine needs of a multimodal model. Each family has a subclass in `families/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .attention import Batch, CachedAttention
from .kv_cache import KVCache


@dataclass(frozen=True)
class ImageFeatures:
    """Images as the language model takes them.

    `embeddings` are (tokens, hidden size) and replace the embeddings of the images' tokens. `deepstack` are further
    embeddings of that shape, one for each of the first layers, added to the layer's output (Qwen3-VL), or none.
    """

    embeddings: Tensor
    deepstack: Sequence[Tensor] = ()


class MultimodalModel:
    """This rank's part of a model of images and text.

    Args:
        model: the library's module.
        image_token: the token that stands for an image's patches.
    """

    def __init__(self, model: Any, image_token: int):
        self.model = model
        self.image_token = image_token
        self._attentions: list[CachedAttention] = []

    @property
    def language_model(self) -> Any:
        """Megatron Core's `GPTModel` or one like it; its `config` has the sizes."""
        return self.model.language_model

    @property
    def merge_size(self) -> int:
        """Patches of a side that become one token."""
        return 2

    def attend_over(self, cache: KVCache) -> None:
        """Have all layers of the language model keep their keys and values in `cache`."""
        for index, layer in enumerate(self.language_model.decoder.layers):
            attention = layer.self_attention
            own = getattr(attention.core_attention, "softmax_scale", None)
            cached = CachedAttention(index, cache, own or attention.hidden_size_per_attention_head**-0.5)
            attention.core_attention = cached
            self._attentions.append(cached)

    def encode_images(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """Run the vision tower; only on the first pipeline stage.

        Args:
            patches: (patches, values of a patch), in the model's dtype.
            grids: int64[images, 3], patches in time, height and width.
        """
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor | None,
        positions: Tensor,
        features: ImageFeatures | None,
        is_image: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Run the language model's layers of this stage.

        Args:
            embeddings: (tokens, 1, hidden size); None on later stages, which were given their input.
            positions: int64[3, 1, tokens]
            features: the images whose embeddings are among `embeddings`.
            is_image: bool[1, tokens], which tokens are images'.
            batch: which tokens belong to which sequence.

        Returns:
            logits (1, chosen tokens, vocabulary) on the last stage, else hidden states (tokens, 1, hidden size).
        """
        for attention in self._attentions:
            attention.batch = batch
        output: Tensor = self.language_model(
            input_ids=None,
            position_ids=positions,
            attention_mask=None,
            decoder_input=embeddings,
            runtime_gather_output=True,
            **self._extra_arguments(features, is_image),
        )
        return output

    def _extra_arguments(self, features: ImageFeatures | None, is_image: Tensor) -> dict[str, Any]:
        """Return what the family's language model takes besides."""
        return {}
