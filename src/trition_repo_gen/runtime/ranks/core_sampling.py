"""The row sampler as a sampling backend of Megatron Core's engine, in place of its batch-wide random stream."""

from collections.abc import Sequence
from typing import Any

from megatron.core.inference.sampling import Sampling
from torch import Tensor

from .sampling import RowSampler


class RowSampling(RowSampler, Sampling):  # type: ignore[misc]
    """A sampling backend for `TextGenerationController`; see `RowSampler`."""

    def __init__(self, vocab_size: int, eos_ids: Sequence[int] = ()):
        RowSampler.__init__(self, vocab_size, eos_ids)

    def sample_kernel(
        self,
        logits: Tensor,
        n: int,
        context: Any,
        *,
        no_top_k: bool,
        no_top_p: bool,
        gather_indices: Tensor | None = None,
        token_to_request_index: Tensor | None = None,
        output: Tensor | None = None,
        eager: bool = False,
        cache_key: Any = None,
    ) -> Tensor:
        """Sample one token for each of the `n` active requests; see `Sampling.sample_kernel`.

        Args:
            logits: [>= n, padded vocabulary]; what is beyond the vocabulary is set to -inf in place, so that
                log-probabilities computed from the same buffer leave it out as well.

        Returns:
            int64[n]
        """
        del no_top_k, no_top_p, eager, cache_key
        if token_to_request_index is not None:
            raise NotImplementedError("Speculative decoding is not supported.")
        logits[:, self._vocab_size :] = float("-inf")
        logits = logits[:n] if gather_indices is None else logits[gather_indices[:n]]
        first, last = context.paused_request_count, context.total_request_count
        # A prompt's unfinished chunk samples as well, but the engine drops that token.
        tokens = self.sample(logits, context.request_ids[first:last].tolist(), context.chunked_prefill_request_id)
        if output is None:
            return tokens
        output.copy_(tokens)
        return output

    def log_probs_kernel(self, logits: Tensor, context: Any, *, token_to_request_index: Tensor | None = None) -> Tensor:
        """Not reached: log-probabilities are those of the model's own distribution ("raw_logprobs")."""
        raise NotImplementedError
