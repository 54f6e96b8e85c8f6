"""What the engine needs of a model that takes images, and the model classes that give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import Batch, CachedAttention
from .kv_cache import KVCache


@dataclass(frozen=True)
class ImageFeatures:
    """Images as the language model takes them.

    `embeddings` are (tokens, hidden size) and take the places of the images' tokens; `deepstack` are as many more for
    each of the first layers, which are added there (Qwen3-VL), or none.
    """

    embeddings: Tensor
    deepstack: Sequence[Tensor] = ()


class MultimodalModel:
    """A model of images and text, of which this rank has a part.

    Args:
        model: the whole of that part.
        image_token: the token that stands for a image's patches.
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

    def look(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """Run the vision tower; only on the first pipeline stage.

        Args:
            patches: (patches, values of a patch), in the model's dtype.
            grids: int64[images, 3], patches in time, height and width.
        """
        raise NotImplementedError

    def read(
        self,
        embeddings: Tensor | None,
        positions: Tensor,
        features: ImageFeatures | None,
        seen: Tensor,
        batch: Batch,
    ) -> Tensor:
        """Run the language model's layers of this stage.

        Args:
            embeddings: (tokens, 1, hidden size); None on later stages, which were given their input.
            positions: int64[3, 1, tokens]
            features: what `embeddings` contain of images.
            seen: bool[1, tokens], which tokens are images'.
            batch: whose the tokens are.

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
            **self._extra(features, seen),
        )
        return output

    def _extra(self, features: ImageFeatures | None, seen: Tensor) -> dict[str, Any]:
        return {}


class NemoQwen2VL(MultimodalModel):
    """nemo.collections.vlm's Qwen2-VL and Qwen2.5-VL (nemo-toolkit 2.7, qwen2vl/model/base.py: `MCoreQwen2VLModel`)."""

    def look(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `VisionLanguage.look`."""
        embeddings = self.model.vision_projection(self.model.vision_model(patches, grid_thw=grids))
        if self.model.model_version == "qwen25-vl":
            # Its tower works window by window and leaves the tokens in that order.
            embeddings = embeddings[torch.argsort(self.model.vision_model.window_index)]
        return ImageFeatures(embeddings)


class BridgeQwen25VL(MultimodalModel):
    """Megatron-Bridge's Qwen2.5-VL (0.6.2, models/qwen_vl/modeling_qwen25_vl.py), with transformers' vision tower."""

    def look(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `VisionLanguage.look`."""
        images = self.model.get_image_features(patches, grids, return_dict=True).pooler_output
        return ImageFeatures(torch.cat(tuple(images)))


class BridgeQwen3VL(MultimodalModel):
    """Megatron-Bridge's Qwen3-VL (0.6.2, models/qwen_vl/modelling_qwen3_vl/model.py)."""

    def look(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `VisionLanguage.look`."""
        embeddings, deepstack = self.model.vision_model(hidden_states=patches, grid_thw=grids)
        return ImageFeatures(embeddings, deepstack)

    def _extra(self, features: ImageFeatures | None, seen: Tensor) -> dict[str, Any]:
        if features is None:
            return {}
        return {"visual_pos_masks": seen, "deepstack_visual_embeds": list(features.deepstack)}
