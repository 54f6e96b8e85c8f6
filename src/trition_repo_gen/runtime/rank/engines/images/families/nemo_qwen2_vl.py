"""Run nemo.collections.vlm's Qwen2-VL and Qwen2.5-VL (nemo-toolkit 2.7, qwen2vl/model/base.py: `MCoreQwen2VLModel`)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import ImageFeatures, MultimodalModel


class NemoQwen2VL(MultimodalModel):
    """NeMo's Qwen2-VL or Qwen2.5-VL."""

    def encode_images(self, patches: Tensor, grids: Tensor) -> ImageFeatures:
        """See `MultimodalModel.encode_images`."""
        embeddings = self.model.vision_projection(self.model.vision_model(patches, grid_thw=grids))
        if self.model.model_version == "qwen25-vl":
            # Its vision tower works window by window and returns the tokens in that order.
            embeddings = embeddings[torch.argsort(self.model.vision_model.window_index)]
        return ImageFeatures(embeddings)
