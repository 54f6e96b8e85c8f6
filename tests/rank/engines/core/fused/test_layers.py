"""Models with fused layers answer what they answer with Megatron Core's. Triton's kernels are interpreted."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.rank.processes import on_ranks, one_rank
from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank.engines.api import Finished
from trition_repo_gen.runtime.rank.engines.core.engine import RankEngine
from trition_repo_gen.runtime.rank.engines.core.fused import decoding
from trition_repo_gen.runtime.rank.engines.core.fused.layers import fuse
from trition_repo_gen.runtime.rank.engines.core.loaded import LoadedModel
from trition_repo_gen.runtime.rank.engines.text import TextCodec
from trition_repo_gen.runtime.rank.loaders import bridge_text

PROMPTS = ("Now.", "Be")
MAX_LENGTH = 3
HALVES = {"llama": (4, 4), "qwen2": (4, 4), "qwen3": (4, 4), "qwen3moe": (4, 0), "deepseekv3": (0, 0)}
"""Attention and MLP halves of layers that can be fused."""

pytestmark = pytest.mark.usefixtures("bridge")

Answers = list[tuple[list[int], list[float]]]
"""Tokens and log-probabilities, of the prompt and of the answer, for each of PROMPTS."""


@dataclass(frozen=True)
class Outcome:
    """Answers of a model before and after its layers were fused, and how many halves of them were."""

    plain: Answers
    fused: Answers
    halves: tuple[int, int]


def answers(loaded: LoadedModel, settings: Settings) -> Answers:
    """Answer PROMPTS."""
    codec = TextCodec(loaded.tokenizer)
    engine = RankEngine(loaded, settings, codec)
    for request_id, text in enumerate(PROMPTS, 1):
        request = SequenceRequest(prompt=text, max_length=MAX_LENGTH, min_length=MAX_LENGTH, log_probs=True, echo=True)
        engine.add(request_id, request, codec.encode(request), watch=False)
    found: dict[int, Finished] = {}
    while engine.has_work:
        found |= engine.loop.run_until_complete(engine.step()).finished
    return [(done.tokens, done.prompt_log_probs + done.log_probs) for _, done in sorted(found.items())]


def outcome_of(checkpoint: Path) -> Outcome:
    """Answer with a checkpoint as it is and fused, on all ranks of the group."""
    ranks = dist.get_world_size()
    settings = Settings(
        checkpoint=str(checkpoint),
        params_dtype="float32",
        max_sequence_length=128,
        max_requests=8,
        tensor_parallel_size=ranks,
        num_gpus=ranks,
    )
    loaded = bridge_text.load(settings, on_cpu=True, progress=lambda line: None)
    plain = answers(loaded, settings)
    attentions, mlps = fuse(loaded.model, settings.max_sequence_length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_PROGRAMS", 8)  # interpreted, each takes milliseconds
        return Outcome(plain, answers(loaded, settings), (attentions, mlps))


def assert_same(outcome: Outcome, halves: tuple[int, int]) -> None:
    assert outcome.halves == halves
    for (tokens, log_probs), (expected, expected_log_probs) in zip(outcome.fused, outcome.plain, strict=True):
        assert tokens == expected
        assert log_probs == pytest.approx(expected_log_probs, abs=1e-4)


@pytest.fixture(scope="module")
def outcome(checkpoints: dict[str, Path]) -> Callable[[str], Outcome]:
    """Answer with a model on one rank; what was done is kept."""

    @functools.cache
    def of(model: str) -> Outcome:
        with one_rank():
            return outcome_of(iteration(checkpoints[model]))

    return of


def iteration(checkpoint: Path) -> Path:
    return next(checkpoint.glob("iter_*"))


@pytest.mark.parametrize("model", HALVES)
def test_answers_and_log_probabilities_are_the_same(model: str, outcome: Callable[[str], Outcome]) -> None:
    assert_same(outcome(model), HALVES[model])


def test_tensor_parallel_ranks_add_up_to_the_same(
    outcome: Callable[[str], Outcome], checkpoints: dict[str, Path]
) -> None:
    for rank in on_ranks(2, outcome_of, iteration(checkpoints["llama"])):
        assert_same(rank, HALVES["llama"])
        assert [tokens for tokens, _ in rank.fused] == [tokens for tokens, _ in outcome("llama").plain]
