"""What is mended in Megatron Core, and what the engine works around, is still so in the installed version."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.inference.inference_request import DynamicInferenceRequest, DynamicInferenceRequestRecord
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.inference.text_generation_controllers.text_generation_controller import TextGenerationController

from tests.rank.upstream import Upstream, assert_needed, functions_of
from trition_repo_gen.runtime.rank.engines.core import upstream
from trition_repo_gen.runtime.rank.engines.core.engine import _ShallowSamplingParams

INFERENCE = "megatron/core/inference"
ENGINE = f"{INFERENCE}/engines/dynamic_engine.py"
CONTROLLER = f"{INFERENCE}/text_generation_controllers/text_generation_controller.py"
MENDS = {
    "mla_decode_only": Upstream(
        "megatron/core/transformer/multi_latent_attention.py",
        "                    kv_lengths,\n                    block_table,\n                )",
    ),
    "fa4_without_split_kv": Upstream(
        "megatron/core/transformer/attention.py", "num_splits=0 if not self.batch_invariant_mode else 1"
    ),
    "metadata_after_async_step": Upstream(
        CONTROLLER,
        'for label in ("temperature", "top_k", "top_p"):\n'
        "            compacted_metadata = context.active_request_metadata[label][survivor_idxs_cpu]",
    ),
    "use_sampling": Upstream(
        CONTROLLER, "self._sampling: Sampling = TorchSampling(self.sampling_rng, self.vocab_size)"
    ),
    "without_detokenization": Upstream(
        ENGINE, 'if not self.use_coordinator:\n            nvtx_range_push("detokenization")'
    ),
    "without_logits_copy": Upstream(
        CONTROLLER, "self._all_logits_cuda[:, :logits_seq_len, :].copy_(logits[:, :logits_seq_len, :])"
    ),
    "allow_prompt_log_probs": Upstream(ENGINE, "assert not self.materialize_only_last_token_logits, ("),
    "schedule_by": Upstream(ENGINE, "        else:\n            self.schedule_non_chunked_prefill()\n"),
    "record_few_sequences": Upstream(
        f"{INFERENCE}/batch_dimensions_utils.py", "rounded = math.ceil(rounded / tp_size) * tp_size"
    ),
    "record_long_steps": Upstream(f"{INFERENCE}/config.py", "cuda_graph_max_tokens: int = 512"),
    "logits_in_model_dtype": Upstream(
        "megatron/core/transformer/module.py", "def forward(self, *inputs, fp32_output=True, **kwargs):"
    ),
}
"""Function of upstream.py → what it mends."""
WORKAROUNDS = {
    # RankEngine.add
    "tokens of a prompt stay on the host": Upstream(
        ENGINE, "tokens = torch.tensor(prompt, dtype=torch.int64, device=torch.cuda.current_device())"
    ),
    # RankEngine._make_room
    "cached blocks are evicted before running sequences": Upstream(
        f"{INFERENCE}/contexts/dynamic_context.py",
        "torch.nonzero(paused_block_counts_cumsum <= active_block_count_avail).numel(),\n"
        "                self.kv_block_allocator.total_avail,",
    ),
    # RankEngine._end_sequences
    "a prompt amid its chunks is ended afterwards": Upstream(ENGINE, "self.stop_word_finished_request_ids -= result"),
    # CoreSampling.sample_kernel
    "the token after an unfinished chunk is the prompt's own": Upstream(
        f"{INFERENCE}/contexts/dynamic_context.py", "active_token_ids[new_token_idx] = new_tokens"
    ),
    # GraphProgress
    "progress is read from the log": Upstream(ENGINE, '"  [graph %d/%d] %s'),
    # attention_kernels.require_paged
    "a scale of the model's own is an attribute": Upstream(
        "megatron/core/transformer/attention.py", 'if getattr(self, "softmax_scale", None) is not None:'
    ),
}
"""What engine.py and its neighbours do → why."""


@pytest.mark.parametrize("mend", MENDS)
def test_megatron_core_still_needs_the_mend(mend: str) -> None:
    assert_needed(f"upstream.{mend}", MENDS[mend])


@pytest.mark.parametrize("workaround", WORKAROUNDS)
def test_megatron_core_still_needs_the_workaround(workaround: str) -> None:
    assert_needed(workaround, WORKAROUNDS[workaround])


def test_every_mend_is_tested() -> None:
    assert {name for name in functions_of(upstream) if not name.startswith("_")} - {"apply"} == set(MENDS)


def test_latent_attention_is_mended_once_and_flash_attention_4_only_on_hopper() -> None:
    assert upstream.mla_decode_only()
    assert upstream.mla_decode_only()
    assert not upstream.fa4_without_split_kv()


LABELS = ("temperature", "top_k", "top_p", "return_log_probs")


def async_step_of_three() -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a controller whose second and third sequence go on, and the flags of those that run."""
    running = {label: torch.tensor([1.0, 2.0, 3.0]) for label in LABELS}
    context = SimpleNamespace(
        gpu_view=SimpleNamespace(**{label: torch.tensor([1.0, 2.0, 3.0]) for label in LABELS[:3]}),
        active_request_metadata=running,
        request_metadata={label: torch.tensor([2.0, 3.0, 0.0]) for label in LABELS},
    )
    controller = SimpleNamespace(
        num_speculative_tokens=0,
        _all_logits_cuda=torch.randn(1, 3, 8),
        _enable_cuda_graph=False,
        _async_sched_logits=SimpleNamespace(
            token_row_indices=None, cuda_graph_request_count=None, set_pending=lambda *_: None
        ),
        inference_wrapped_model=SimpleNamespace(inference_context=context),
    )
    return controller, running


def test_metadata_follows_its_sequence_through_an_asynchronous_step() -> None:
    survivors = torch.tensor([1, 2])
    upstream.metadata_after_async_step()
    mended = TextGenerationController._compact_async_sched_logits

    controller, running = async_step_of_three()
    inspect.unwrap(mended)(controller, survivors)
    assert running["temperature"].tolist()[:2] == [2.0, 3.0]
    assert running["return_log_probs"].tolist()[:2] == [1.0, 2.0], "Megatron Core needs the mend no more"

    controller, running = async_step_of_three()
    mended(controller, survivors)
    assert {label: values.tolist()[:2] for label, values in running.items()} == {label: [2.0, 3.0] for label in LABELS}


def request(sampling: SamplingParams) -> DynamicInferenceRequest:
    return DynamicInferenceRequest(
        request_id=1, prompt_tokens=torch.tensor([1, 2]), sampling_params=sampling, block_size_tokens=64
    )


def test_sampling_parameters_would_be_copied_deeply() -> None:
    """Where this fails, engine.py needs no `_ShallowSamplingParams`."""
    tokens: list[int] = []
    for kind, shared in ((SamplingParams, False), (_ShallowSamplingParams, True)):
        sampling = kind(num_tokens_to_generate=1)
        sampling.add_attributes({"marked": tokens})
        assert (request(sampling).sampling_params.marked is tokens) == shared


def test_a_sequence_that_was_evicted_cannot_be_merged_without_log_probabilities() -> None:
    """Where this fails, `_merged` of engine.py is needed no more."""
    parts = [request(SamplingParams(num_tokens_to_generate=4)) for _ in range(2)]
    parts[0].generated_tokens, parts[1].generated_tokens = [5], []
    parts[0].generated_log_probs, parts[1].generated_log_probs = [-0.5], None
    with pytest.raises(TypeError, match="NoneType"):
        DynamicInferenceRequestRecord(requests=parts).merge()


def test_a_sequence_that_is_evicted_forgets_its_further_ends() -> None:
    """Where this fails, `RankEngine._prepare_waiting_sequences` is needed no more."""
    first = request(SamplingParams(num_tokens_to_generate=4))
    first.stop_word_ids = [[7]]
    record = DynamicInferenceRequestRecord.from_request(first)
    record.checkpoint()
    assert record[-1].stop_word_ids is None
