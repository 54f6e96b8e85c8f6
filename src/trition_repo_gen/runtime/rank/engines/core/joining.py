"""Which waiting sequences join a step of Megatron Core's engine, and how they get there."""

from collections.abc import Sequence

from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.engines.dynamic_engine import DynamicInferenceEngine
from megatron.core.inference.inference_request import DynamicInferenceRequest


class Joining:
    """Decides which waiting sequences join the engine's next forward pass, and lets them in."""

    def __init__(self, engine: DynamicInferenceEngine):
        self._engine = engine
        self._context = engine.context
        self._schedule_waiting = engine.schedule_waiting_requests

    def take_over(self) -> None:
        """Have the engine do as is written here."""
        self._engine.schedule_waiting_requests = self._schedule
        if not (self._context.enable_prefix_caching or self._context.is_hybrid_model):
            self._engine.schedule_non_chunked_prefill = self._let_in

    def _schedule(self) -> None:
        """Let waiting sequences into the next forward pass; no logits of an earlier one are waiting to be read.

        A sequence that wants its prompt's log-probabilities joins without others: logits of all tokens of the pass are
        computed then, and a vocabulary's worth of numbers for each of 16,384 tokens is more than a GPU has left.
        """
        waiting = self._engine.waiting_request_ids
        wanting = [self._wants_prompt_logits(request_id) for request_id in waiting]
        alone = wanting[:1] == [True]
        considered = 1 if alone else [*wanting, True].index(True)
        later = [waiting.pop() for _ in range(len(waiting) - considered)]
        self._context.config.materialize_only_last_token_logits = not alone
        self._schedule_waiting()
        waiting.extend(reversed(later))

    def _wants_prompt_logits(self, request_id: int) -> bool:
        return not self._engine.get_request(request_id).sampling_params.skip_prompt_log_probs

    def _let_in(self) -> None:
        """Let in as many waiting sequences as there is room for, in their order."""
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
    """Do what the context's `add_request` does for each, with a tensor operation for all where it has 25 for each.

    The context itself does so for sequences that warm it up, which have no blocks of the cache.

    Args:
        context: without prefix caching, not of a hybrid model, with room for all.
        requests: their prompts are on the host, and none of them has been read.
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
