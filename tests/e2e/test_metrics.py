"""Triton's metrics endpoint tells what the deployment did."""

import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import Samples, Serving, samples, wait_for
from trition_repo_gen.clients import LLMClient
from trition_repo_gen.errors import QueryError


def test_what_requests_did_is_counted(llama: Serving) -> None:
    # Sums are handed over in order, now and then: with a refusal all that went before is there.
    refused = 'request_failure_total code="INVALID_ARG"'
    refusals = samples(llama).get(refused, 0.0)
    with pytest.raises(InferenceServerException):
        llama.ask("")
    before = wait_for(llama, lambda found: found.get(refused, 0.0) > refusals and found["num_requests_running"] == 0)
    plain = llama.ask(["What is the color of a banana?"] * 2, max_length=16)
    with LLMClient(llama.http, llama.model) as client:
        *_, whole = client.stream("Count from one to fifty.", max_length=5)
    assert not isinstance(whole, str)
    one = llama.ask("a", max_length=1)  # which has no time between tokens

    def grown(found: Samples, name: str) -> float:
        return found.get(name, 0.0) - before.get(name, 0.0)

    expected = {
        'request_success_total finished_reason="stop"': 2,
        'request_success_total finished_reason="length"': 2,
        "prompt_tokens_total": sum(plain.prompt_tokens + one.prompt_tokens) + whole.prompt_tokens,
        "generation_tokens_total": sum(plain.completion_tokens + one.completion_tokens) + whole.completion_tokens,
        "e2e_request_latency_seconds_count": 4,
        "time_per_output_token_seconds_count": 3,
        'time_per_output_token_seconds_bucket le="+Inf"': 3,
        'time_to_first_token_seconds_bucket le="+Inf"': 4,
    }
    after = wait_for(llama, lambda found: {name: grown(found, name) for name in expected} == expected)
    assert grown(after, "time_to_first_token_seconds_sum") <= grown(after, "e2e_request_latency_seconds_sum")
    wait_for(llama, lambda found: found["num_requests_running"] == found["kv_cache_usage_perc"] == 0)


def test_a_request_that_the_streaming_model_cannot_read_is_counted(llama: Serving) -> None:
    name = 'request_failure_total code="INVALID_ARG"'
    before = samples(llama).get(name, 0.0)
    with LLMClient(llama.http, llama.model) as client, pytest.raises(QueryError, match=r"top_p is 2\.0"):
        list(client.stream("a", top_p=2.0))
    wait_for(llama, lambda found: found.get(name, 0.0) > before)


def test_a_client_that_goes_away_is_counted(llama: Serving) -> None:
    aborted = samples(llama).get("request_aborted_total", 0.0)
    with LLMClient(llama.http, llama.model) as client:
        stream = client.stream("Count from one to fifty.", max_length=900, min_length=900)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    wait_for(llama, lambda found: found.get("request_aborted_total", 0.0) == aborted + 1)
    wait_for(llama, lambda found: found["num_requests_running"] == found["kv_cache_usage_perc"] == 0)
