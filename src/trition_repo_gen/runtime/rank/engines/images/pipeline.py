"""Run the model's pipeline stages: pass micro-batches on to the next stage, and sampled tokens back to all."""

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

    `tokens` are int64[tokens], `positions` int64[3, 1, tokens], `logits_of` int64[chosen], the indices of the tokens
    whose logits are needed; `images` are the patches and grids of their images, in order.
    """

    tokens: Tensor
    positions: Tensor
    logits_of: Tensor
    batch: Batch
    images: tuple[tuple[Tensor, Tensor], ...] = ()


class Pipeline:
    """This rank's stage.

    Args:
        model: its part of the model.
        device: of the model.
    """

    def __init__(self, model: MultimodalModel, device: torch.device):
        self._model = model
        self._device = device
        self._config = model.language_model.config
        self.stages: int = parallel_state.get_pipeline_model_parallel_world_size()
        self.is_first: bool = parallel_state.is_pipeline_first_stage()
        self.is_last: bool = parallel_state.is_pipeline_last_stage()
        self._logits_of: Tensor | None = None
        if self.is_last:
            # Logits of a long prompt's every token would take gigabytes.
            model.language_model.output_layer.register_forward_pre_hook(self._select_tokens)

    def forward(self, micro_batches: Iterable[MicroBatch]) -> Tensor | None:
        """Run micro-batches; return logits (chosen tokens, vocabulary) on the last stage.

        While this stage works on a micro-batch, the next stage works on the previous one.
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
                sent.append((work, output))  # keeps the memory until it is sent
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
        self._logits_of = micro_batch.logits_of
        return self._model.forward(embeddings, micro_batch.positions, features, is_image, micro_batch.batch)

    def _encode_images(self, micro_batch: MicroBatch) -> ImageFeatures:
        """Run the vision tower prompt by prompt, so that a prompt's result does not depend on the others."""
        features = [self._model.encode_images(patches, grids) for patches, grids in micro_batch.images]
        deepstack = zip(*(each.deepstack for each in features), strict=True)
        return ImageFeatures(
            torch.cat([each.embeddings for each in features]), [torch.cat(layer) for layer in deepstack]
        )

    def _select_tokens(self, _: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = arguments
        return (hidden[self._logits_of], *rest)
