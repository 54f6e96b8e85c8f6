"""Choose the waiting sequences that join a step of Megatron Core's engine, and add them all at once."""

from collections.abc import Sequence

from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.engines.dynamic_engine import DynamicInferenceEngine
from megatron.core.inference.inference_request import DynamicInferenceRequest

from . import upstream


class Joining:
    """Admits waiting sequences to the engine's next forward pass."""

    def __init__(self, engine: DynamicInferenceEngine):
        self._engine = engine
        self._context = engine.context
        self._schedule_waiting = engine.schedule_waiting_requests

    def take_over(self) -> None:
        """Have the engine schedule with this object."""
        has_own_way = self._context.enable_prefix_caching or self._context.is_hybrid_model
        upstream.schedule_by(self._engine, self._schedule, None if has_own_way else self._admit)

    def _schedule(self) -> None:
        """Admit waiting sequences to the next forward pass. The logits of earlier passes have been read.

        A sequence that asks for its prompt's log-probabilities joins alone: its pass computes the logits of all tokens,
        and logits of 16,384 tokens are more than a GPU has memory left for.
        """
        waiting = self._engine.waiting_request_ids
        needs_all_logits = [self._needs_prompt_logits(request_id) for request_id in waiting]
        alone = needs_all_logits[:1] == [True]
        considered = 1 if alone else [*needs_all_logits, True].index(True)
        later = [waiting.pop() for _ in range(len(waiting) - considered)]
        self._context.config.materialize_only_last_token_logits = not alone
        self._schedule_waiting()
        waiting.extend(reversed(later))

    def _needs_prompt_logits(self, request_id: int) -> bool:
        return not self._engine.get_request(request_id).sampling_params.skip_prompt_log_probs

    def _admit(self) -> None:
        """Admit as many waiting sequences as there is room for, in their order."""
        context, waiting = self._context, self._engine.waiting_request_ids
        if context.paused_request_count:
            return
        sequences = context.max_requests - context.total_request_count
        tokens = context.max_tokens - context.active_token_count
        blocks = context.kv_block_allocator.total_avail
        joining: list[DynamicInferenceRequest] = []
        while waiting and len(joining) < sequences:
            request = self._engine.get_request(waiting[0])
            tokens -= request.remaining_prompt_length
            blocks -= -(-request.remaining_prompt_length // context.block_size_tokens)
            if tokens < 0 or blocks < 0:
                break
            joining.append(request)
            waiting.popleft()
        if joining:
            let_in(context, joining)
        for request in joining:
            request.remaining_prompt_tokens = request.remaining_prompt_tokens.new_empty(0)
            request.add_event_add_context()


def let_in(context: DynamicInferenceContext, requests: Sequence[DynamicInferenceRequest]) -> None:
    """Add requests to the context as its `add_request` would, with one tensor operation for all instead of 25 for each.

    `add_dummy_requests_parallel`, which the context uses for its warm-up, does so except for blocks of the cache.

    Args:
        context: without prefix caching, not of a hybrid model, with room for all.
        requests: with prompts on the host, of which no token has been computed.
    """
    first, first_token = context.total_request_count, context.active_token_count
    context.add_dummy_requests_parallel(requests)
    sequences, tokens = slice(first, context.total_request_count), slice(first_token, context.active_token_count)
    context.lifetime_prefill_token_count += context.active_token_count - first_token
    counts, table = context.request_kv_block_counts[sequences], context.request_to_kv_block_ids[sequences]
    table[table != -1] = context.kv_block_allocator.allocate_memory_blocks(int(counts.sum()))
    context.request_last_kv_block_id[sequences] = table.gather(1, counts.long().unsqueeze(1) - 1).squeeze(1)
    block_of_token = context.token_to_position_in_request[tokens] // context.block_size_tokens
    context.token_to_block_idx[tokens] = context.request_to_kv_block_ids[
        context.token_to_request_idx[tokens], block_of_token
    ]
