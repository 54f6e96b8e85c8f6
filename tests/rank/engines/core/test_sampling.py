"""Sequences of one batch are sampled each by its own parameters, as Hugging Face's processors would have it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.core.sampling import CoreSampling
from trition_repo_gen.runtime.rank.engines.sampling.random import gumbel_noise

VOCABULARY, PADDED = 50, 64
END_TOKENS = [4, 30]
PROMPT = [3, 7, 7, 11]
REQUESTS = [
    SequenceRequest(prompt="", top_k=0, temperature=0.7),
    SequenceRequest(prompt="", top_k=5, temperature=1.3),
    SequenceRequest(prompt="", top_k=0, top_p=0.6),
    SequenceRequest(prompt="", top_k=9, top_p=0.8, temperature=0.5),
    SequenceRequest(prompt="", top_k=0, repetition_penalty=1.7),
    SequenceRequest(prompt="", top_k=0, top_p=0.9, repetition_penalty=0.6, temperature=2.0),
    SequenceRequest(prompt="", top_k=0, min_length=1),
    SequenceRequest(prompt="", top_k=4, min_length=1, repetition_penalty=1.2, temperature=1.5),
]


def random_logits(sequences: int) -> Tensor:
    """Return logits [sequences, PADDED] that like to end, and whose padding would win if it were not left out."""
    logits = torch.randn(sequences, PADDED) * 3
    logits[:, END_TOKENS] += 3.0
    logits[:, VOCABULARY:] = 100.0
    return logits


def sampler_with(requests: Iterable[tuple[int, SequenceRequest]]) -> CoreSampling:
    """Return a sampler that knows these requests by their numbers."""
    sampler = CoreSampling(VOCABULARY, END_TOKENS)
    for request_id, request in requests:
        sampler.add(request_id, request, PROMPT, torch.device("cpu"))
    return sampler


def step(sampler: CoreSampling, request_ids: list[int], logits: Tensor) -> list[int]:
    """Sample a token for each of the requests, as a step of the engine does."""
    context = SimpleNamespace(
        paused_request_count=0,
        total_request_count=len(request_ids),
        request_ids=torch.tensor(request_ids),
        chunked_prefill_request_id=-1,
    )
    tokens = sampler.sample_kernel(logits.clone(), len(request_ids), context, no_top_k=True, no_top_p=True)
    return [int(token) for token in tokens]


def hugging_face(request: SequenceRequest, logits: Tensor) -> Tensor:
    """Return the probabilities [VOCABULARY] that Hugging Face's `generate` would sample from."""
    chain = LogitsProcessorList()
    if request.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(request.repetition_penalty))
    if request.min_length:
        chain.append(MinNewTokensLengthLogitsProcessor(len(PROMPT), request.min_length, END_TOKENS, device="cpu"))
    if request.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(request.temperature))
    if request.top_k:
        chain.append(TopKLogitsWarper(request.top_k))
    if request.top_p:
        chain.append(TopPLogitsWarper(request.top_p))
    probabilities: Tensor = chain(torch.tensor([PROMPT]), logits[None, :VOCABULARY].clone())[0].softmax(-1)
    return probabilities


@pytest.mark.parametrize("request_index", range(len(REQUESTS)))
def test_tokens_follow_the_distribution_of_hugging_face(request_index: int) -> None:
    request, logits = REQUESTS[request_index], random_logits(len(REQUESTS))[request_index]
    samples = 4000
    sampler = sampler_with((seed, replace(request, seed=seed)) for seed in range(samples))

    tokens = Counter(step(sampler, list(range(samples)), logits.expand(samples, PADDED)))

    expected = hugging_face(request, logits)
    assert not [token for token in tokens if expected[token] == 0], "tokens that Hugging Face filters out"
    # Total variation of 4,000 samples of up to 50 tokens: about 0.04 where both agree.
    assert 0.5 * sum(abs(tokens[token] / samples - float(expected[token])) for token in range(VOCABULARY)) < 0.07


def test_no_token_of_a_large_vocabulary_is_sampled_for_certain() -> None:
    """One in 16 million random numbers is the largest of them, which must not count as infinitely likely."""
    for begin in range(0, 400, 50):
        assert gumbel_noise(torch.arange(begin, begin + 50)[:, None], 131_072).isfinite().all()


def test_end_tokens_are_masked_as_long_as_hugging_face_does() -> None:
    sampler = sampler_with([(0, SequenceRequest(prompt="", min_length=3))])
    processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), 3, END_TOKENS, device="cpu")
    tokens: list[int] = []
    expected: list[int] = []
    for logits in random_logits(6)[:, None]:
        logits[:, END_TOKENS] += 20.0  # nothing but the processor keeps these from being sampled
        scores = processor(torch.tensor([PROMPT + expected]), logits[:, :VOCABULARY].clone())
        expected.append(int(scores.argmax()))
        tokens += step(sampler, [0], logits)
    assert tokens == expected
    assert [token in END_TOKENS for token in expected] == [False] * 3 + [True] * 3


def test_a_seed_gives_the_same_tokens_alone_and_among_others() -> None:
    seeded = SequenceRequest(prompt="", top_k=0, temperature=1.5, seed=0)
    others = [(request_id, SequenceRequest(prompt="", top_k=0, seed=request_id)) for request_id in range(1, 32)]
    alone, together = sampler_with([(0, seeded)]), sampler_with([(0, seeded), *others])
    tokens_alone, tokens_together = [], []
    for logits in torch.randn(20, 1, PADDED):
        tokens_alone += step(alone, [0], logits)
        batch = torch.cat([torch.randn(len(others), PADDED), logits])
        tokens_together.append(step(together, [*range(1, 32), 0], batch)[-1])
    assert tokens_alone == tokens_together
    assert len(set(tokens_alone)) > 10


def test_the_models_padding_is_never_sampled() -> None:
    rising = torch.linspace(1.0, 2.0, PADDED)[None]
    assert step(sampler_with([(0, SequenceRequest(prompt=""))]), [0], rising) == [VOCABULARY - 1]


def test_a_repetition_penalty_counts_the_answer_so_far() -> None:
    rising = torch.linspace(1.0, 2.0, PADDED)[None]
    sampler = sampler_with([(0, SequenceRequest(prompt="", repetition_penalty=50.0))])
    assert [step(sampler, [0], rising)[0] for _ in range(3)] == [49, 48, 47]
