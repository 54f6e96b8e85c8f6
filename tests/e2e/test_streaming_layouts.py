"""Streams of models on more than one rank: the rank that speaks for a sequence is not always the one that leads."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

from tests.e2e.serving import PROMPTS, Serve, Serving, samples, wait_for
from trition_repo_gen.clients import Completion, LLMClient

LAYOUTS = {
    "llama TP2": ("llama", ["--tensor-parallel-size", "2"]),
    "llama PP2": ("llama", ["--pipeline-parallel-size", "2", "--async-scheduling", "on"]),
    "llama DP2": ("llama", ["--num-gpus", "2", "--async-scheduling", "on"]),
    # One group of two replicas: the second one's replica leader tells the leader what became of its sequences.
    "qwen3moe EP2": ("qwen3moe", ["--expert-parallel-size", "2"]),
}
STREAMS = 12
SEEDED = {"top_k": 0, "temperature": 1.5}
LONG = {"max_length": 400, "min_length": 400, **SEEDED}


@pytest.fixture(scope="module", params=LAYOUTS)
def serving(request: pytest.FixtureRequest, serve: Serve) -> Iterator[Serving]:
    name, flags = LAYOUTS[request.param]
    with serve(name, *flags, "--max-requests", "8") as server:
        yield server


def sequence(number: int) -> tuple[str, dict[str, Any]]:
    """A prompt and what goes with it; every other one is sampled."""
    return PROMPTS[number % len(PROMPTS)], {"random_seed": number, "max_length": 40, **(SEEDED if number % 2 else {})}


def plain(serving: Serving, prompt: str, **parameters: Any) -> Completion:
    with LLMClient(serving.http, serving.model) as client:
        return client.infer([prompt], **parameters)[0]


def stream(serving: Serving, prompt: str, **parameters: Any) -> tuple[list[str], Completion]:
    with LLMClient(serving.http, serving.model) as client:
        *pieces, whole = client.stream(prompt, **parameters)
    assert isinstance(whole, Completion)
    return [str(piece) for piece in pieces], whole


def cut(serving: Serving, pieces: int, prompt: str, **parameters: Any) -> None:
    """Read so many pieces of a stream, then go away."""
    with (
        LLMClient(serving.http, serving.model) as client,
        contextlib.closing(cast(Any, client.stream(prompt, **parameters))) as it,  # a generator
    ):
        assert all(isinstance(next(it), str) for _ in range(pieces))


def test_texts_of_many_streams_join_to_the_plain_answers(serving: Serving) -> None:
    sequences = [sequence(number) for number in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:
        expected = list(pool.map(lambda each: plain(serving, each[0], **each[1]), sequences))
        streams = list(pool.map(lambda each: stream(serving, each[0], **each[1]), sequences))

    assert [whole for _, whole in streams] == expected
    assert ["".join(pieces) for pieces, _ in streams] == [whole.text for whole in expected]
    assert sum(len(pieces) for pieces, _ in streams) > STREAMS


def test_a_stop_word_ends_a_stream_before_it_and_no_other(serving: Serving) -> None:
    sequences = [sequence(number) for number in range(STREAMS // 2)]
    endless = {"max_length": 450, "ignore_eos": True}  # a stop word counts after min_length only
    with ThreadPoolExecutor(STREAMS) as pool:
        expected = list(pool.map(lambda each: plain(serving, each[0], **each[1], ignore_eos=True), sequences))
        words = [word_of(whole.text) for whole in expected]
        ended: list[Future[Any]] = []
        other = pool.submit(stream, serving, "a", random_seed=100, **LONG)
        stopped = [
            pool.submit(stream, serving, prompt, **parameters | endless, stop_words=["never said", word])
            for (prompt, parameters), word in zip(sequences, words, strict=True)
        ]
        for each in (other, *stopped):
            each.add_done_callback(ended.append)

    for answer, word, cut_off in zip(expected, words, stopped, strict=True):
        pieces, whole = cut_off.result()
        assert "".join(pieces) == whole.text == answer.text[: answer.text.index(word)]
        assert whole.finish_reason == "stop"
    assert other.result()[1].completion_tokens == 400
    assert ended[-1] is other  # nothing runs on behind a stop word


FURTHER: tuple[dict[str, Any], ...] = (
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7, "repetition_penalty": 1.1},
    {"logit_bias": {"32": -5.0, "46": 3.0}},
    {"stop_token_ids": [101, 46]},
    {"min_p": 0.2, "random_seed": 5, **SEEDED},
    {"min_p": 0.05, "presence_penalty": 0.5, "logit_bias": {"97": 2}, "random_seed": 6, **SEEDED},
)


def test_sampling_parameters_mean_the_same_on_every_layout(serving: Serving, llama: Serving) -> None:
    if serving.model != llama.model:
        pytest.skip("one rank serves the trained model only")
    requests = [(PROMPTS[number], {"max_length": 40, **each}) for number, each in enumerate(FURTHER)]
    with ThreadPoolExecutor(len(requests)) as pool:
        mixed = list(pool.map(lambda each: plain(serving, each[0], **each[1]), requests))
    assert mixed == [plain(llama, prompt, **parameters) for prompt, parameters in requests]


def word_of(text: str) -> str:
    """Return two whole characters that a text says after its first third."""
    pairs = (text[at : at + 2] for at in range(len(text) // 3, len(text) - 1))
    return next(pair for pair in pairs if "\ufffd" not in pair)


def test_clients_that_go_away_leave_the_others_as_they_were(serving: Serving) -> None:
    kept = {"max_length": 64, "min_length": 64, **SEEDED}
    aborted = samples(serving).get("request_aborted_total", 0.0)
    with ThreadPoolExecutor(STREAMS) as pool:
        numbers = range(STREAMS // 2)
        undisturbed = list(pool.map(lambda number: stream(serving, "a", random_seed=number, **kept)[1], numbers))
        others, cuts = [], []
        for number in numbers:
            cuts.append(pool.submit(cut, serving, 1 + number, "a", random_seed=100 + number, **LONG))
            others.append(pool.submit(stream, serving, "a", random_seed=number, **kept))
        for each in cuts:
            each.result()

    assert [other.result()[1] for other in others] == undisturbed
    wait_for(
        serving,
        lambda found: (
            found["num_requests_running"] == found["kv_cache_usage_perc"] == 0
            and found.get("request_aborted_total", 0.0) == aborted + len(cuts)
        ),
    )
    with ThreadPoolExecutor(2) as pool:  # all places are free again, on ranks that do not lead, too
        halves = [pool.submit(serving.ask, ["a"] * 8, max_length=2) for _ in range(2)]
        assert [half.result().completion_tokens for half in halves] == [[2] * 8] * 2
