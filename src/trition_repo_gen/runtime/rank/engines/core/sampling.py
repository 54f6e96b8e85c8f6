"""Use the sampler as a sampling backend of Megatron Core's engine, instead of its batch-wide random generator."""

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
        """Prompts of sequences that ask for their log-probabilities."""

    def remember_prompt(self, request_id: int, tokens: Sequence[int]) -> None:
        """Keep a prompt whose log-probabilities are asked for: the engine takes them from the sampled tokens."""
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
            logits: [>= n, padded vocabulary]; the padding is set to -inf in place, so that log-probabilities computed
                from the same buffer exclude it as well.

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
        # A token is sampled for an unfinished chunk of a prompt, too. The engine drops it, but reports its
        # log-probability as that of the prompt's next token (megatron-core 0.19.2, dynamic_context.py,
        # `calculate_log_probs_tensors`).
        unfinished = context.chunked_prefill_request_id
        tokens = self.sample(logits, request_ids, unfinished)
        if unfinished in self._prompts and unfinished in request_ids:
            index = request_ids.index(unfinished)
            position = int((context.request_kv_length_offsets + context.request_query_lengths)[first + index])
            # A sequence that was evicted resumes with its answer as part of the prompt; that part is not asked for.
            if position < len(self._prompts[unfinished]):
                tokens[index] = self._prompts[unfinished][position]
        if output is None:
            return tokens
        output.copy_(tokens)
        return output

    def log_probs_kernel(self, logits: Tensor, context: Any, *, token_to_request_index: Tensor | None = None) -> Tensor:
        """Not called: log-probabilities are those of the model's own distribution ("raw_logprobs")."""
        raise NotImplementedError
