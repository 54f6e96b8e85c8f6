"""Parameters at the ends of float32: what is left is the limit, not infinity."""

from typing import Any

import pytest
import torch

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.sampling import Sampler

LOGITS = torch.tensor([[-3.0, 8.0, 11.0, 9.5, -12.0, 10.9, 0.5, -0.5]])
CPU = torch.device("cpu")


def sample(prompt: list[int], **values: Any) -> int:
    sampler = Sampler(LOGITS.shape[1])
    sampler.add(1, SequenceRequest(prompt="", **{"top_k": 0, "seed": 7, **values}), prompt, CPU)
    # Among others, whose parameters may be anything.
    sampler.add(2, SequenceRequest(prompt="", top_k=0, temperature=1.5), [0], CPU)
    return int(sampler.sample(LOGITS.repeat(2, 1), [1, 2])[0])


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-42, 1e-40, 1e-38, 1e-30, 1e-10, 1e-6])
@pytest.mark.parametrize("others", [{}, {"top_p": 0.9}, {"top_k": 3}, {"repetition_penalty": 1.2}])
def test_the_lowest_temperatures_are_greedy(temperature: float, others: dict[str, Any]) -> None:
    assert [sample([4], temperature=temperature, seed=seed, **others) for seed in range(20)] == [2] * 20


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-4, 1.0])
@pytest.mark.parametrize("penalty", [1e-45, 1e-40, 1e-38, 1e-30])
def test_the_lowest_penalties_prefer_the_likeliest_of_the_seen_tokens(penalty: float, temperature: float) -> None:
    seen = [0, 6, 1, 3]  # token 3 has the largest logit of them, and comes last
    assert sample(seen, temperature=temperature, repetition_penalty=penalty) == 3


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-4])
@pytest.mark.parametrize("penalty", [1e20, 1e30, 3e38])
def test_the_highest_penalties_leave_the_unseen_tokens(penalty: float, temperature: float) -> None:
    assert sample([2, 5, 3, 4], temperature=temperature, repetition_penalty=penalty) == 1
    assert sample(list(range(8)), temperature=temperature, repetition_penalty=penalty) in (2, 5, 3, 1, 6)


def test_the_highest_temperature_is_even() -> None:
    assert len({sample([], temperature=3e38, seed=seed) for seed in range(100)}) == LOGITS.shape[1]
