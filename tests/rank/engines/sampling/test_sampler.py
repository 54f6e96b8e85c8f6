"""The sampler: which work a step has, what it remembers of sequences, and what a new processor may rely on."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.sampling import Sampler
from trition_repo_gen.runtime.rank.engines.sampling.api import LogitsProcessor, SequenceState
from trition_repo_gen.runtime.rank.engines.sampling.device import column
from trition_repo_gen.runtime.rank.engines.sampling.registry import PROCESSORS

CPU = torch.device("cpu")
VOCABULARY = 50
MIXED: list[dict[str, Any]] = [
    {},
    {"top_k": 0},
    {"top_k": 8, "top_p": 0.9, "temperature": 0.7},
    {"repetition_penalty": 1.3},
    {"top_k": 0, "top_p": 0.8},
    {"min_length": 2},
    {"top_k": 0, "temperature": 1.4},
    {"top_k": 5, "repetition_penalty": 0.8, "min_length": 3},
]


def sampler_of(requests: Sequence[dict[str, Any]], device: torch.device = CPU, **keywords: Any) -> Sampler:
    sampler = Sampler(VOCABULARY, [4, 30], **keywords)
    for id_, parameters in enumerate(requests):
        sampler.add(id_, SequenceRequest(prompt="", seed=id_, **parameters), [3, 7], device)
    return sampler


class Operations(TorchDispatchMode):  # type: ignore[misc]
    """Notes the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_plain_greedy_sequences_cost_nothing_beside_the_argmax() -> None:
    sampler = sampler_of([{}, {"temperature": 0.0, "top_k": 40, "top_p": 0.5}, {"top_p": 0.5}])
    logits = torch.eye(3, VOCABULARY + 6)
    with Operations() as operations:
        tokens = sampler.sample(logits, [0, 1, 2])
    assert tokens.tolist() == [0, 1, 2]
    assert operations.names == ["slice", "argmax"]


def test_a_minimum_that_is_reached_costs_nothing() -> None:
    sampler = sampler_of([{"min_length": 2}])
    logits = torch.zeros(1, VOCABULARY + 6)
    logits[0, 4] = 1.0
    names = []
    for _ in range(4):
        with Operations() as operations:
            token = sampler.sample(logits, [0])
        names.append((operations.names == ["slice", "argmax"], int(token) == 4))
    assert names == [(False, False)] * 2 + [(True, True)] * 2


def test_no_operation_waits_for_the_device() -> None:
    sampler = sampler_of(MIXED)
    with Operations() as operations:
        for ids in ([0, 1, 2, 3, 4, 5, 6, 7], [6, 4, 2, 1], [5], [0, 3, 5]):
            for _ in range(3):
                sampler.sample(torch.randn(len(ids), VOCABULARY), ids)
    # `.item()` and what a tensor of booleans as an index becomes.
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select"} & set(operations.names)


@pytest.fixture
def strict_gpu() -> Iterator[torch.device]:
    """Return a GPU on which waiting is an error."""
    if not torch.cuda.is_available():
        pytest.skip("There is no GPU.")
    torch.cuda.set_sync_debug_mode("error")
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")


def test_nothing_waits_for_a_gpu_which_samples_as_a_cpu_does(strict_gpu: torch.device) -> None:
    logits = torch.randn(20, len(MIXED), VOCABULARY) * 3
    ids = list(range(len(MIXED)))
    on_cpu = sampler_of(MIXED)
    expected = [on_cpu.sample(each, ids).tolist() for each in logits]
    torch.cuda.set_sync_debug_mode("default")
    logits = logits.to(strict_gpu)
    sampler_of([{}], strict_gpu).sample(logits[0, :1], [0])  # compiles a kernel, which may wait
    torch.cuda.set_sync_debug_mode("error")
    on_gpu = sampler_of(MIXED, strict_gpu)
    tokens = [on_gpu.sample(each, ids) for each in logits]
    on_gpu.remove(2)
    on_gpu.add(9, SequenceRequest(prompt="", top_k=0, repetition_penalty=1.1), [1], strict_gpu)
    on_gpu.sample(logits[0], [*ids[:2], 9, *ids[3:]])
    torch.cuda.set_sync_debug_mode("default")
    assert [each.tolist() for each in tokens] == expected


def test_a_part_of_a_prompt_leaves_a_sequence_as_it_is() -> None:
    logits = torch.randn(8, len(MIXED), VOCABULARY) * 3
    ids = list(range(len(MIXED)))
    for late in ids:
        whole, in_parts = sampler_of(MIXED), sampler_of(MIXED)
        in_parts.sample(logits[7, late : late + 1], [late], unfinished=late)
        in_parts.sample(logits[6, late : late + 1], [late], unfinished=late)
        for each in logits[:4]:
            assert torch.equal(whole.sample(each, ids), in_parts.sample(each, ids))


def test_sequences_come_and_leave() -> None:
    logits = torch.randn(9, 40, VOCABULARY) * 3
    alone = {
        id_: [int(token) for each in logits[id_ : id_ + 4] for token in sampler.sample(each[id_ : id_ + 1], [id_])]
        for id_ in range(5)
        for sampler in [sampler_of([{"top_k": 0, "repetition_penalty": 1.5}] * 5)]
    }
    sampler = Sampler(VOCABULARY, [4, 30])
    together: dict[int, list[int]] = {id_: [] for id_ in range(5)}
    for step in range(8):  # one comes at each step, and leaves after four of its own
        if step < 5:
            sampler.add(step, SequenceRequest(prompt="", seed=step, top_k=0, repetition_penalty=1.5), iter([3, 7]), CPU)
        running = [id_ for id_ in range(5) if id_ <= step < id_ + 4]
        for id_, token in zip(running, sampler.sample(logits[step, running], running).tolist(), strict=True):
            together[id_].append(token)
        if step - 3 in together:
            sampler.remove(step - 3)
    assert together == alone


def test_requests_that_are_unknown_are_greedy_and_may_be_removed() -> None:
    sampler = sampler_of([{"top_k": 0}])
    sampler.remove(77)
    assert sampler.sample(torch.eye(3, VOCABULARY), [5, 6, 7]).tolist() == [0, 1, 2]


class OutputPenalty(LogitsProcessor[tuple[torch.Tensor, torch.Tensor]]):
    """A processor that reads how often tokens were sampled; its parameter is `temperature`, for want of its own."""

    counts_output = True

    def applies_to(self, sequence: SequenceRequest) -> bool:
        return sequence.temperature != 1.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        penalties = column(device, [state.sequence.temperature for state in states])
        return penalties, self.context.output_counts.slots([state.request_id for state in states], device)

    def apply(self, logits: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor]) -> None:
        penalties, slots = parameters
        logits -= penalties * self.context.output_counts.values[slots]


def test_a_processor_may_read_how_often_tokens_were_sampled() -> None:
    penalties = [0.5, 1.0, 0.0, 3.0, 0.25]
    sampler = sampler_of([{"temperature": penalty, "top_k": 1} for penalty in penalties], processors=[OutputPenalty])
    counts = torch.zeros(len(penalties), VOCABULARY)
    logits = torch.randn(12, len(penalties), VOCABULARY)
    logits[:, :, 3] += 3.0  # a token of the prompt, which does not count
    for step, each in enumerate(logits):
        order = [0, 1, 2, 3, 4] if step % 2 else [4, 2, 0, 1, 3]
        given = [penalties[id_] if penalties[id_] != 1.0 else 0.0 for id_ in order]
        expected = (each[order] - torch.tensor(given)[:, None] * counts[order]).argmax(-1)
        tokens = sampler.sample(each[order], order)
        assert torch.equal(tokens, expected)
        counts[order, tokens] += 1
    for id_ in range(len(penalties)):
        sampler.remove(id_)
    assert len(sampler._output_counts.values) == 0


def test_every_processor_is_in_order_of_application() -> None:
    # Filters read probabilities, so all that greedy sequences have as well comes before.
    only_sampled = [processor.only_sampled for processor in PROCESSORS]
    assert only_sampled == sorted(only_sampled)
