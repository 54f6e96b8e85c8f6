"""The streaming model: its texts join to the plain answer, and whoever goes away frees what they held."""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Serve, Serving, run, wait_for
from trition_repo_gen.clients import Completion, LLMClient
from trition_repo_gen.errors import QueryError

LONG = "Count from one to fifty."
SEEDED: dict[str, Any] = {"top_k": 0, "temperature": 1.5}
SIGNS = (
    "😀👍🏽",
    "漢字かな交じり文",
    "e\u0301a\u0308",
    "न\u092e\u0938\u094d\u0924\u0947",
    "👩‍👩‍👧‍👦",
    "مرحبا",
    "ß\u0302",
    "🇺🇳",
)


@pytest.fixture(scope="module")
def qwen3(serve: Serve) -> Iterator[Serving]:
    """A random model: it answers in bytes of all kinds, and ends no answer by itself."""
    with serve("qwen3", "--max-requests", "16") as serving:
        yield serving


def stream(serving: Serving, prompt: str, *, grpc: bool = False, **parameters: object) -> tuple[list[str], Completion]:
    url = f"grpc://{serving.server.grpc_url}" if grpc else serving.http
    with LLMClient(url, serving.model) as client:
        *pieces, whole = client.stream(prompt, **parameters)
    assert isinstance(whole, Completion)
    assert all(isinstance(piece, str) for piece in pieces)
    return [str(piece) for piece in pieces], whole


@pytest.mark.parametrize("grpc", [False, True])
def test_texts_join_to_the_plain_answer(llama: Serving, grpc: bool) -> None:
    pieces, whole = stream(llama, LONG, grpc=grpc, max_length=600)
    plain = llama.ask(LONG, max_length=600)
    assert len(pieces) > 10  # text that comes while the way out is busy goes in one piece
    assert "".join(pieces) == whole.text == plain.sentences[0]
    assert (whole.finish_reason, whole.prompt_tokens, whole.completion_tokens) == (
        "stop",
        plain.prompt_tokens[0],
        plain.completion_tokens[0],
    )


def test_two_hundred_prompts_with_signs_of_many_bytes(qwen3: Serving) -> None:
    choose = random.Random(5)
    prompts = ["".join(choose.choices(SIGNS, k=choose.randint(1, 6))) for _ in range(200)]
    seeds = range(200)

    def both(prompt: str, seed: int) -> tuple[str, str]:
        _, whole = stream(qwen3, prompt, max_length=24, random_seed=seed, echo=seed % 2 == 0, **SEEDED)
        plain = qwen3.ask(prompt, max_length=24, random_seed=seed, echo=seed % 2 == 0, **SEEDED)
        return whole.text, plain.sentences[0]

    with ThreadPoolExecutor(16) as pool:
        pairs = list(pool.map(both, prompts, seeds))
    assert [a for a, _ in pairs] == [b.encode(errors="surrogateescape").decode(errors="replace") for _, b in pairs]


def test_a_stop_word_never_shows(llama: Serving) -> None:
    pieces, whole = stream(llama, LONG, max_length=600, stop_words=["ten, eleven"])
    assert "".join(pieces) == whole.text == llama.ask(LONG, max_length=600, stop_words='["ten, eleven"]').sentences[0]
    assert whole.text.endswith("nine, ")
    assert whole.finish_reason == "stop"


def test_log_probabilities_come_with_the_last_response(llama: Serving) -> None:
    _, whole = stream(llama, "What is the color of a banana?", max_length=16, compute_logprob=True, n_top_logprobs=2)
    plain = llama.ask("What is the color of a banana?", max_length=16, compute_logprob=True, n_top_logprobs=2)
    assert whole.log_probs == pytest.approx(plain.log_probs[0], abs=1e-4)
    assert whole.top_logprobs is not None
    assert [list(token) for token in whole.top_logprobs] == [list(token) for token in plain.top_logprobs[0]]


def test_min_length_masks_the_end(llama: Serving) -> None:
    short = llama.ask("What is the color of a banana?", max_length=40)
    long = llama.ask("What is the color of a banana?", max_length=40, min_length=20)
    assert short.completion_tokens[0] < 20 <= long.completion_tokens[0]
    assert long.sentences[0].startswith(short.sentences[0])


def test_query_prints_the_stream(llama: Serving) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("trgen"),
        "query",
        "-u",
        llama.http,
        "-mn",
        llama.model,
        "--stream",
    ]
    assert run([*command, "-p", "What is the color of a banana?"]) == " Yellow.\n"


def test_a_mistake_is_the_clients(llama: Serving) -> None:
    with pytest.raises(QueryError, match="max_length is 0; it has to be 1 or more"):
        stream(llama, "a", max_length=0)


def test_clients_that_go_away_free_their_places(qwen3: Serving) -> None:
    """64 streams on 16 places, half of them closed at random; the others are as if nothing had happened."""
    choose = random.Random(6)
    seeds = list(range(64))
    cut_after = [choose.randint(1, 20) if seed % 2 else None for seed in seeds]

    def undisturbed(seed: int) -> str:
        return stream(qwen3, "a", max_length=64, random_seed=seed, **SEEDED)[1].text

    def cut(seed: int, pieces: int | None) -> str | None:
        if pieces is None:
            return undisturbed(seed)
        with LLMClient(qwen3.http, qwen3.model) as client:
            for count, _ in enumerate(client.stream("a", max_length=400, random_seed=seed, **SEEDED)):
                if count == pieces:
                    return None
        return None

    expected = [undisturbed(seed) for seed in seeds[::2]]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(cut, seeds, cut_after))
    assert answers[::2] == expected
    wait_for(qwen3, lambda found: found["num_requests_running"] == found["kv_cache_usage_perc"] == 0)
    with ThreadPoolExecutor(2) as pool:  # all 16 places are free again
        halves = [pool.submit(qwen3.ask, ["a"] * 8, max_length=2, timeout=60) for _ in range(2)]
        assert [len(half.result().sentences) for half in halves] == [8, 8]
