"""The sequence sampler as a sampling backend of Megatron Core's engine, in place of its batch-wide random stream."""

from collections.abc import Sequence
from typing import Any

from megatron.core.inference.sampling import Sampling
from torch import Tensor

from ..sampling import Sampler


class CoreSampling(Sampler, Sampling):  # type: ignore[misc]
    """A sampling backend for `TextGenerationController`; see `Sampler`."""

    def __init__(self, vocab_size: int, eos_ids: Sequence[int] = ()):
        Sampler.__init__(self, vocab_size, eos_ids)
        self._prompts: dict[int, list[int]] = {}
        """Of sequences whose prompts' log-probabilities are wanted."""

    def remember_prompt(self, request_id: int, tokens: Sequence[int]) -> None:
        """The log-probabilities of these tokens will be wanted, which the engine reads off what was sampled."""
        self._prompts[request_id] = list(tokens)

    def remove(self, request_id: int) -> None:
        """Forget a request that ended."""
        super().remove(request_id)
        self._prompts.pop(request_id, None)

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
        request_ids = context.request_ids[first:last].tolist()
        # A prompt's unfinished chunk samples as well. The engine drops that token, but takes its log-probability for
        # that of the prompt's next token (megatron-core 0.19.2, dynamic_context.py, `calculate_log_probs_tensors`).
        unfinished = context.chunked_prefill_request_id
        tokens = self.sample(logits, request_ids, unfinished)
        if unfinished in self._prompts and unfinished in request_ids:
            index = request_ids.index(unfinished)
            position = int((context.request_kv_length_offsets + context.request_query_lengths)[first + index])
            # A sequence that was evicted comes back with its answer as part of the prompt, where nobody asks any more.
            if position < len(self._prompts[unfinished]):
                tokens[index] = self._prompts[unfinished][position]
        if output is None:
            return tokens
        output.copy_(tokens)
        return output

    def log_probs_kernel(self, logits: Tensor, context: Any, *, token_to_request_index: Tensor | None = None) -> Tensor:
        """Not reached: log-probabilities are those of the model's own distribution ("raw_logprobs")."""
        raise NotImplementedError
