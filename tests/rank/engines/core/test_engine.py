"""Prefix caching, chunked prefill and a KV cache that cannot hold all sequences change nothing in what is answered."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rank.processes import one_rank
from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank import cpu
from trition_repo_gen.runtime.rank.engines.core.engine import RankEngine
from trition_repo_gen.runtime.rank.engines.core.loaded import LoadedModel
from trition_repo_gen.runtime.rank.engines.text import TextCodec
from trition_repo_gen.runtime.rank.loaders import bridge_text

COMMON = "Count from one to fifty. " * 12
ENDS = ("Now.", "What is the color of a banana?")
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 0, "temperature": 1.2},
    {"log_probs": True},
    {"log_probs": True, "top_logprobs": 2, "echo": True},
    {"repetition_penalty": 1.3, "top_k": 5},
)
REQUESTS = {
    request_id: SequenceRequest(prompt=COMMON + end, max_length=70, min_length=60, seed=request_id - 1, **kind)
    for request_id, (end, kind) in enumerate(itertools.product(ENDS, KINDS), 1)
}
ECHOED = 4
"""A request whose prompt's log-probabilities are wanted."""
SCORED = {
    101: replace(REQUESTS[ECHOED], max_length=0, min_length=0),
    102: replace(REQUESTS[ECHOED], max_length=0, min_length=0, top_logprobs=0),
}
"""The same without an answer."""
CHUNKED = {"enable_chunked_prefill": True, "chunked_prefill_size": 64}
CACHED = {"enable_prefix_caching": True}
ASYNCHRONOUS = {"async_scheduling": "on"}
SMALL = {"kv_cache_gib": None}
"""A KV cache of `small_cache`."""
ENGINES: dict[str, dict[str, Any]] = {
    "prefix caching": CACHED,
    "chunked prefill": CHUNKED,
    "small cache": SMALL,
    "small cache, both": SMALL | CACHED | CHUNKED,
    "asynchronous, small cache, both": SMALL | CACHED | CHUNKED | ASYNCHRONOUS,
}


@dataclass(frozen=True)
class Answer:
    """What one sequence was answered."""

    tokens: list[int]
    log_probs: list[float]
    prompt_log_probs: list[float]
    top_logprobs: list[float]


@dataclass(frozen=True)
class Outcome:
    """What an engine did with REQUESTS."""

    answers: dict[int, Answer]
    scored: dict[int, Answer]
    """Answers to SCORED, asked together with two requests."""
    again: dict[int, Answer]
    """Answers to some that were asked once more."""
    evictions: int
    """Steps that evicted a sequence from the KV cache."""
    skipped_tokens: int
    """Tokens of prompts that were in the KV cache already."""
    ended: list[int]
    """Of seven sequences that were to end early: those of which that was told."""
    usage: float
    """Of the KV cache, at the end."""


@dataclass(frozen=True)
class Model:
    """A loaded model and what engines need besides."""

    loaded: LoadedModel
    settings: Settings
    codec: TextCodec


def engine_of(model: Model, options: Mapping[str, Any]) -> RankEngine:
    """Return an engine with settings of its own."""
    options = dict(options)
    if "kv_cache_gib" in options:
        options["kv_cache_gib"] = small_cache(model.loaded.model.config)
    engine = RankEngine(model.loaded, replace(model.settings, **options), model.codec)
    with torch.inference_mode():
        engine._context.reset()  # as the engine does once it has recorded CUDA graphs
    return engine


def small_cache(config: Any) -> float:
    """Return the GiB of 24 blocks of 64 tokens: four sequences' prompts, and not their answers as well."""
    heads = config.num_query_groups or config.num_attention_heads
    return float(24 * 64 * 2 * config.num_layers * heads * config.kv_channels * 4 / 2**30)


def answer(engine: RankEngine, model: Model, request_ids: Iterable[int]) -> dict[int, Answer]:
    """Add sequences and step until all are answered; every other one is watched."""
    for request_id in request_ids:
        request = (REQUESTS | SCORED)[request_id]
        engine.add(request_id, request, model.codec.encode(request), watch=request_id % 2 == 0)
    answers: dict[int, Answer] = {}
    streamed: dict[int, list[int]] = {}
    while engine.has_work:
        result = engine.loop.run_until_complete(engine.step())
        for request_id, tokens in result.tokens.items():
            streamed.setdefault(request_id, []).extend(tokens)
        for request_id, done in result.finished.items():
            assert streamed.get(request_id, done.tokens) == done.tokens
            assert done.failure is None, done.failure
            request = (REQUESTS | SCORED)[request_id]
            answers[request_id] = Answer(
                tokens=done.tokens,
                # The engine computes some for sequences that did not ask, too.
                log_probs=done.log_probs if request.log_probs else [],
                prompt_log_probs=done.prompt_log_probs if request.echo else [],
                top_logprobs=[
                    value for token in done.prompt_top_logprobs + done.top_logprobs for value in token.values()
                ],
            )
    return answers


def end_early(engine: RankEngine, model: Model) -> list[int]:
    """Add sequences, end one of them before each step; return those of which the end was told, then or later."""
    for request_id in range(1, 8):
        engine.add(request_id, REQUESTS[request_id], model.codec.encode(REQUESTS[request_id]), watch=False)
    told: list[int] = []
    ends = iter(range(1, 8))
    while engine.has_work:
        ending = next(ends, None)
        if ending is not None and engine.finish(ending):
            told.append(ending)
        told += engine.loop.run_until_complete(engine.step()).finished
    return sorted(told)


def count_results(context: Any, name: str) -> list[Any]:
    """Note what a method returns that is not None."""
    method, found = getattr(context, name), []

    def noted(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        if result is not None:
            found.append(result)
        return result

    setattr(context, name, noted)
    return found


def outcome_of(model: Model, options: Mapping[str, Any]) -> Outcome:
    """Ask an engine with these settings everything."""
    engine = engine_of(model, options)
    evictions = count_results(engine._context, "evict_overflow_paused_requests")
    return Outcome(
        answers=answer(engine, model, range(1, len(REQUESTS) + 1)),
        scored=answer(engine, model, (1, *SCORED, 2)),
        again=answer(engine, model, (1, 2, 4)),
        evictions=len(evictions),
        skipped_tokens=int(engine._engine._prefill_tokens_skipped),
        ended=end_early(engine, model),
        usage=engine.kv_cache_usage,
    )


@pytest.fixture(scope="module")
def outcomes(bridge: None, checkpoints: dict[str, Path]) -> Iterator[dict[str, Outcome]]:
    """What engines of one model did, one without options among them."""
    checkpoint = next(checkpoints["llama"].glob("iter_*"))
    settings = Settings(checkpoint=str(checkpoint), params_dtype="float32", max_sequence_length=1024, max_requests=16)
    with one_rank():
        loaded = bridge_text.load(settings, on_cpu=cpu.needed(), progress=lambda line: None)
        model = Model(loaded, settings, TextCodec(loaded.tokenizer))
        plain = outcome_of(model, {})
        yield {"plain": plain} | {name: outcome_of(model, options) for name, options in ENGINES.items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_are_the_same(outcomes: dict[str, Outcome], engine: str) -> None:
    expected = {request_id: answer.tokens for request_id, answer in outcomes["plain"].answers.items()}
    assert {request_id: answer.tokens for request_id, answer in outcomes[engine].answers.items()} == expected
    for request_id, again in outcomes[engine].again.items():
        assert again.tokens == expected[request_id]


@pytest.mark.parametrize("engine", ENGINES)
def test_log_probabilities_are_the_same_those_of_the_prompt_as_well(outcomes: dict[str, Outcome], engine: str) -> None:
    for request_id, expected in outcomes["plain"].answers.items():
        got = outcomes[engine].answers[request_id]
        assert got.log_probs == pytest.approx(expected.log_probs, abs=1e-4), request_id
        assert got.prompt_log_probs == pytest.approx(expected.prompt_log_probs, abs=1e-4), request_id
        assert got.top_logprobs == pytest.approx(expected.top_logprobs, abs=1e-4), request_id
    # Prompts of several blocks and chunks.
    assert max(len(expected.prompt_log_probs) for expected in outcomes["plain"].answers.values()) > 3 * 64


@pytest.mark.parametrize("engine", ("plain", *ENGINES))
def test_log_probabilities_of_a_prompt_come_without_an_answer_as_well(
    outcomes: dict[str, Outcome], engine: str
) -> None:
    expected, found = outcomes["plain"].answers[ECHOED], outcomes[engine].scored
    for request_id in SCORED:
        assert (found[request_id].tokens, found[request_id].log_probs) == ([], [])
        assert found[request_id].prompt_log_probs == pytest.approx(expected.prompt_log_probs, abs=1e-4)
    assert found[101].top_logprobs == pytest.approx(expected.top_logprobs[: len(found[101].top_logprobs)], abs=1e-4)
    assert len(found[101].top_logprobs) == 2 * len(expected.prompt_log_probs)
    assert found[1].tokens == outcomes["plain"].answers[1].tokens


def test_sequences_were_evicted_where_the_cache_is_small(outcomes: dict[str, Outcome]) -> None:
    assert {engine for engine in outcomes if outcomes[engine].evictions} == {
        engine for engine in ENGINES if "small cache" in engine
    }


def test_prompts_were_found_in_the_cache_where_prefixes_are_kept(outcomes: dict[str, Outcome]) -> None:
    assert {engine for engine in outcomes if outcomes[engine].skipped_tokens} == {
        engine for engine in ENGINES if "prefix caching" in engine or "both" in engine
    }


@pytest.mark.parametrize("engine", ("plain", *ENGINES))
def test_sequences_that_are_ended_early_leave_nothing(outcomes: dict[str, Outcome], engine: str) -> None:
    assert outcomes[engine].ended == list(range(1, 8))
    assert outcomes[engine].usage == 0
