"""The model's stages: micro-batches go from one to the next, and what the last one chose comes back to all."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from .attention import Batch
from .model import ImageFeatures, MultimodalModel


@dataclass(frozen=True)
class MicroBatch:
    """Tokens that go through the layers together.

    `tokens` are int64[tokens], `positions` int64[3, 1, tokens], `wanted` int64[chosen], the tokens whose logits are
    needed; `images` are the patches and grids of the images that they contain, in order.
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    batch: Batch
    images: tuple[tuple[Tensor, Tensor], ...] = ()


class Pipeline:
    """This rank's stage.

    Args:
        model: its part of the model.
        device: where that lies.
    """

    def __init__(self, model: MultimodalModel, device: torch.device):
        self._model = model
        self._device = device
        self._config = model.language_model.config
        self.stages: int = parallel_state.get_pipeline_model_parallel_world_size()
        self.is_first: bool = parallel_state.is_pipeline_first_stage()
        self.is_last: bool = parallel_state.is_pipeline_last_stage()
        self._wanted: Tensor | None = None
        if self.is_last:
            # Logits of a long prompt's every token would take gigabytes.
            model.language_model.output_layer.register_forward_pre_hook(self._leave_out)

    def forward(self, micro_batches: Iterable[MicroBatch]) -> Tensor | None:
        """Run micro-batches; return logits (wanted tokens, vocabulary) on the last stage.

        While this stage works on one, the next stage does on the one before.
        """
        logits: list[Tensor] = []
        sent: list[tuple[Any, Tensor]] = []
        for micro_batch in micro_batches:
            output = self._run(micro_batch)
            if self.is_last:
                logits.append(output[0])
            else:
                output = output.contiguous()
                work = dist.isend(output, parallel_state.get_pipeline_model_parallel_next_rank())
                sent.append((work, output))  # its memory has to stay until it has left
        for work, _ in sent:
            work.wait()
        return torch.cat(logits) if self.is_last else None

    def share_tokens(self, tokens: Tensor | None, count: int) -> list[int]:
        """Return the last stage's tokens on all stages."""
        if self.stages > 1:
            if tokens is None:
                tokens = torch.empty(count, dtype=torch.int64, device=self._device)
            dist.broadcast(tokens, **self._from_last())
        assert tokens is not None
        result: list[int] = tokens.tolist()
        return result

    def share_object(self, value: Any) -> Any:
        """Return the last stage's value on all stages."""
        values = [value]
        if self.stages > 1:
            dist.broadcast_object_list(values, device=self._device, **self._from_last())
        return values[0]

    def _from_last(self) -> dict[str, Any]:
        group = parallel_state.get_pipeline_model_parallel_group()
        return {"src": parallel_state.get_pipeline_model_parallel_last_rank(), "group": group}

    def _run(self, micro_batch: MicroBatch) -> Tensor:
        tokens = micro_batch.tokens
        is_image = (tokens == self._model.image_token)[None]
        embeddings, features = None, None
        if self.is_first:
            embeddings = self._model.language_model.embedding(input_ids=tokens[None], position_ids=None)
            if micro_batch.images:
                features = self._encode_images(micro_batch)
                embeddings = embeddings.clone()
                embeddings[is_image[0], 0] = features.embeddings.to(embeddings.dtype)
        else:
            shape = (len(tokens), 1, self._config.hidden_size)
            received = torch.empty(shape, dtype=self._config.params_dtype, device=self._device)
            dist.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
            self._model.language_model.set_input_tensor(received)
        self._wanted = micro_batch.wanted
        return self._model.forward(embeddings, micro_batch.positions, features, is_image, micro_batch.batch)

    def _encode_images(self, micro_batch: MicroBatch) -> ImageFeatures:
        """Run the vision tower prompt by prompt: what it makes of one does not depend on the others."""
        features = [self._model.encode_images(patches, grids) for patches, grids in micro_batch.images]
        deepstack = zip(*(each.deepstack for each in features), strict=True)
        return ImageFeatures(
            torch.cat([each.embeddings for each in features]), [torch.cat(layer) for layer in deepstack]
        )

    def _leave_out(self, _: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = arguments
        return (hidden[self._wanted], *rest)
