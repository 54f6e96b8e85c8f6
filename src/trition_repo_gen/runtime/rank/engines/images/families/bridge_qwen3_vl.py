"""Run Megatron-Bridge's Qwen3-VL (0.6.2, models/qwen_vl/modelling_qwen3_vl/model.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..model import ImageFeatures, MultimodalModel


class BridgeQwen3VL(MultimodalModel):
    """Megatron-Bridge's Qwen3-VL."""

    def encode_images(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `MultimodalModel.encode_images`."""
        embeddings, deepstack = self.model.vision_model(hidden_states=patches, grid_thw=grids)
        return ImageFeatures(embeddings, deepstack)

    def _extra_arguments(self, features: ImageFeatures | None, is_image: Tensor) -> dict[str, Any]:
        if features is None:
            return {}
        return {"visual_pos_masks": is_image, "deepstack_visual_embeds": list(features.deepstack)}
