"""Corrections of Megatron Core 0.19, one a function: of mistakes in its classes, and of what an engine does.

tests/rank/engines/core/test_upstream.py fails where upstream no longer has what a function corrects.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LONG_STEPS = (1024, 1536, 2048)
"""Tokens of steps that are recorded beyond Megatron Core's 512. With an 8B model, a GPU takes longer than the host to
start a step of more tokens."""


def apply() -> None:
    """Correct the classes of the installed version where they need it. Calling it again does nothing."""
    mla_decode_only()
    fa4_without_split_kv()
    metadata_after_async_step()


def mla_decode_only() -> bool:
    """Pass on to paged attention over latents whether the batch only decodes.

    megatron-core 0.19.2, core/transformer/multi_latent_attention.py:414, calls `flash_decode_and_prefill` without its
    required last argument `is_decode_only` (core/transformer/attention.py:1022): TypeError at the first step. While
    decoding, and only then, there are no values beside the cached latents (:827), so the argument follows from `v`.

    Returns:
        whether the installed version needs it.
    """
    from megatron.core.transformer.attention import Attention
    from megatron.core.transformer.multi_latent_attention import MultiLatentAttention

    parameter = inspect.signature(Attention.flash_decode_and_prefill).parameters.get("is_decode_only")
    required = parameter is not None and parameter.default is inspect.Parameter.empty
    call = inspect.getsource(MultiLatentAttention.forward).partition("self.flash_decode_and_prefill(")[2]
    if not required or not call or "is_decode_only" in call.partition(")\n")[0]:
        return False
    if "flash_decode_and_prefill" in vars(MultiLatentAttention):
        return True  # corrected already

    def flash_decode_and_prefill(self: Any, q: Tensor, k: Tensor, v: Tensor | None, *rest: Any, **named: Any) -> Any:
        return Attention.flash_decode_and_prefill(self, q, k, v, *rest, is_decode_only=v is None, **named)

    MultiLatentAttention.flash_decode_and_prefill = flash_decode_and_prefill
    return True


def fa4_without_split_kv() -> bool:
    """Keep FlashAttention 4 from splitting keys on Hopper.

    megatron-core 0.19.2, core/transformer/attention.py:1102 and :1229, lets FlashAttention 4 choose `num_splits`.
    Version 4.0.0b36 then fails an assertion, because it has no SplitKV on SM 9.0.

    Returns:
        whether this machine needs it.
    """
    from megatron.core.transformer import attention

    if not attention.HAVE_FA4 or not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    original = attention.flash_attn4_varlen_func
    if getattr(original, "never_splits", False):
        return True

    @functools.wraps(original)
    def flash_attn4_varlen_func(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "num_splits": 1})

    flash_attn4_varlen_func.never_splits = True  # type: ignore[attr-defined]
    attention.flash_attn4_varlen_func = flash_attn4_varlen_func
    return True


def metadata_after_async_step() -> None:
    """Move all of a sequence's metadata when asynchronous scheduling closes the gaps that finished sequences leave.

    megatron-core 0.19.2, text_generation_controller.py:1999, moves temperature, top-k and top-p of the running
    sequences, but not their log-probability flags, which the next step that admits sequences reads.
    """
    from megatron.core.inference.text_generation_controllers.text_generation_controller import TextGenerationController

    original = getattr(TextGenerationController, "_compact_async_sched_logits", None)
    if original is None or getattr(original, "moves_all", False):
        return

    @functools.wraps(original)
    def compact(self: Any, survivors: Tensor) -> None:
        original(self, survivors)
        context = self.inference_wrapped_model.inference_context
        for name, values in context.request_metadata.items():
            context.active_request_metadata[name][: len(survivors)].copy_(values[: len(survivors)])

    compact.moves_all = True  # type: ignore[attr-defined]
    TextGenerationController._compact_async_sched_logits = compact


def use_sampling(controller: Any, sampling: Any) -> None:
    """Have a `TextGenerationController` sample with an own `Sampling` object.

    megatron-core 0.19.2, text_generation_controller.py:345, makes one of its own two and takes no other.
    """
    _set(controller, "_sampling", sampling)


def without_detokenization(engine: Any) -> None:
    """Keep a `DynamicInferenceEngine` from detokenizing answers within the step, on every rank.

    megatron-core 0.19.2, dynamic_engine.py:2215, skips it only in an engine with a coordinator. So this one claims to
    be a member of a coordinated group that is not the coordinator itself.
    """
    _set(engine, "use_coordinator", True)
    engine.is_mp_coordinator = False


def without_logits_copy(controller: Any, *, records_graphs: bool) -> None:
    """Keep a `TextGenerationController` from copying each step's logits into a buffer of its own.

    megatron-core 0.19.2, text_generation_controller.py:319 and :857, does so with CUDA graphs. The buffer has room for
    last tokens only, and nothing that was recorded reads it.

    Args:
        controller: before its first step.
        records_graphs: whether the model is configured with CUDA graphs.
    """
    assert controller._enable_cuda_graph is records_graphs
    controller._enable_cuda_graph, controller._all_logits_cuda = False, None


def allow_prompt_log_probs(engine: Any) -> None:
    """Have a `DynamicInferenceEngine` accept sequences that ask for their prompt's log-probabilities.

    megatron-core 0.19.2, dynamic_engine.py:1094, refuses them where steps compute the logits of last tokens only.
    `Joining` switches that off for the steps of such sequences.
    """
    _set(engine, "materialize_only_last_token_logits", False)


def schedule_by(engine: Any, schedule: Callable[[], None], admit: Callable[[], None] | None) -> None:
    """Replace how a `DynamicInferenceEngine` admits waiting sequences to a step.

    megatron-core 0.19.2, dynamic_engine.py:1634 and :1715: its own methods mix sequences that ask for their prompt's
    log-probabilities with others, and run 25 small tensor operations for each sequence.

    Args:
        engine: the engine.
        schedule: replaces `schedule_waiting_requests`.
        admit: replaces `schedule_non_chunked_prefill`; None leaves the engine's own.
    """
    _set(engine, "schedule_waiting_requests", schedule)
    if admit is not None:
        _set(engine, "schedule_non_chunked_prefill", admit)


def record_few_sequences(context: Any, ranks: int) -> None:
    """Add CUDA graphs for decoding steps of fewer sequences than there are tensor-parallel ranks.

    megatron-core 0.19.2, batch_dimensions_utils.py:306, rounds the number up to a multiple of the ranks, which only
    sequence parallelism needs: one sequence would be computed as two.

    Args:
        context: a `DynamicInferenceContext`, before its engine records.
        ranks: the tensor parallel size.
    """
    from megatron.core.inference.batch_dimensions_utils import InferenceBatchDimensions

    recorded = context.cuda_graph_batch_dimensions_list
    fewer = [1 << power for power in reversed(range((ranks - 1).bit_length()))]
    missing = [InferenceBatchDimensions(sequences, 0, sequences) for sequences in fewer]
    if recorded:  # the largest come first
        recorded += [dimensions for dimensions in missing if dimensions not in recorded]


def record_long_steps(context: Any, ranks: int) -> None:
    """Add CUDA graphs for steps with prompts of more tokens, one for each size, for prompts and decoding together.

    megatron-core 0.19.2, config.py:253, has one limit for all graphs, 512 tokens; a larger one would also record more
    graphs of decoding steps. Left out are sizes that are no multiple of the ranks, over which sequence parallelism
    splits a step's tokens, and steps longer than all sequences together, whose positions exceed the rotary tables.

    Args:
        context: a `DynamicInferenceContext`, before its engine records.
        ranks: the tensor parallel size.
    """
    from megatron.core.inference.batch_dimensions_utils import InferenceBatchDimensions

    recorded = context.cuda_graph_batch_dimensions_list
    sequences = context.max_requests
    if recorded and context.use_cuda_graphs_for_non_decode_steps:
        sizes = [tokens for tokens in reversed(_LONG_STEPS) if tokens <= context.max_tokens and tokens % ranks == 0]
        steps = [InferenceBatchDimensions(tokens, sequences, 0) for tokens in sizes]
        valid = [step for step in steps if step.is_valid(sequences, context.max_sequence_length, 0)]
        recorded[:0] = [step for step in valid if step not in recorded]


def logits_in_model_dtype(model: torch.nn.Module) -> torch.nn.Module:
    """Keep a `Float16Module` from converting logits to float32, in place; return it.

    megatron-core 0.19.2, core/transformer/module.py:477. For 256 sequences the copy takes longer than sampling.
    """
    from megatron.core.transformer.module import Float16Module

    if isinstance(model, Float16Module):
        model.forward = functools.partial(model.forward, fp32_output=False)
    return model


def _set(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of Megatron Core's that is there.

    Raises:
        RuntimeError: it is not, so that setting it would be without effect.
    """
    if not hasattr(owner, name):
        installed = importlib.metadata.version("megatron-core")
        raise RuntimeError(
            f"{type(owner).__name__} of megatron-core {installed} has no {name}; install megatron-core 0.19."
        )
    setattr(owner, name, value)
