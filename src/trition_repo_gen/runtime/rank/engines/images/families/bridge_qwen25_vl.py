"""Run Megatron-Bridge's Qwen2.5-VL (0.6.2, models/qwen_vl/modeling_qwen25_vl.py), with transformers' vision tower."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import ImageFeatures, MultimodalModel


class BridgeQwen25VL(MultimodalModel):
    """Megatron-Bridge's Qwen2.5-VL."""

    def encode_images(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `MultimodalModel.encode_images`."""
        images = self.model.get_image_features(patches, grids, return_dict=True).pooler_output
        return ImageFeatures(torch.cat(tuple(images)))
