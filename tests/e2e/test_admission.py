"""A full server: who waits, who is refused, who is not waited for any more."""

import functools
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.resting import rest_service
from tests.e2e.serving import DTYPES, LogLine, Reply, Samples, Serve, Serving, run, wait_for
from trition_repo_gen.clients import LLMClient
from trition_repo_gen.errors import QueryError

LONG = "Count from one to fifty."
BANANA = "What is the color of a banana?"


@pytest.fixture(scope="module")
def narrow(serve: Serve) -> Iterator[Serving]:
    """One sequence at a time, two requests may wait."""
    flags = ("--max-requests", "1", "--max-queue-size", "2", "--priority-levels", "3", "--debug-mode")
    with serve("llama", *flags) as serving:
        yield serving


def test_one_runs_two_wait_and_the_fourth_is_refused(narrow: Serving) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(narrow.ask, LONG, max_length=900, min_length=900) for _ in range(4)]
    refused = [future.exception() for future in futures if future.exception()]
    assert [str(error) for error in refused] == [
        "[503] The server is full and 2 requests wait already; try again later. [busy]"
    ]
    replies: list[Future[Reply]] = [future for future in futures if not future.exception()]
    assert len({future.result().sentences[0] for future in replies}) == 1


def test_a_full_server_is_healthy(narrow: Serving, checkout: Path) -> None:
    """Both health checks ask for a token, and a refusal for want of room in the queue is not a failure."""
    with rest_service(narrow.server.grpc_url) as rest, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(narrow.ask, LONG, max_length=900, min_length=900, timeout=20.0) for _ in range(3)]
        wait_for(narrow, lambda found: found["num_requests_waiting"] == 2)
        check = [sys.executable, str(checkout / "scripts/healthcheck.py"), narrow.http]
        assert run(check) == ""
        with urllib.request.urlopen(f"{rest}/v1/triton_health") as response:
            assert json.load(response) == {"status": "ok", "triton": "ok", narrow.model: "ok"}
        body = json.dumps({"model": narrow.model, "prompt": BANANA}).encode()
        request = urllib.request.Request(f"{rest}/v1/completions", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 503
        error = json.load(refused.value)["error"]
        assert error["code"] == "server_busy"
        assert error["message"] == "The server is full and 2 requests wait already; try again later."
    assert all(future.done() for future in futures)


def test_a_request_ends_with_its_timeout(narrow: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(narrow.ask, LONG, max_length=900, min_length=900, timeout=0.2) for _ in range(2)]
    for future in futures:  # one of them was running, the other waiting
        error = future.exception()
        assert isinstance(error, InferenceServerException)
        assert (error.status(), error.message()) == ("503", "The request took longer than its timeout.")
    assert narrow.ask(BANANA, max_length=8).sentences == [" Yellow."]


def test_nothing_runs_on_for_a_client_that_waits_no_longer(narrow: Serving) -> None:
    ended = LogLine(narrow, "The request took longer than its timeout.")
    with (
        LLMClient(narrow.http, narrow.model, timeout=0.5) as client,
        pytest.raises(QueryError, match=r"Waited 0\.5 s|its timeout"),
    ):
        client.infer([LONG], max_length=900, min_length=900)
    ended.wait()
    assert narrow.ask(BANANA, max_length=8).sentences == [" Yellow."]


def waiting_are(number: int, found: Samples) -> bool:
    """Return whether so many requests wait."""
    return found["num_requests_waiting"] == number


def test_the_more_urgent_goes_first(narrow: Serving) -> None:
    prompts = ["Count slowly.", "3", "1"]
    started, *others = (LogLine(narrow, f"prompt='{prompt}'") for prompt in prompts)
    with ThreadPoolExecutor(3) as pool:
        pool.submit(narrow.ask, prompts[0], max_length=900, min_length=900)
        started.wait()
        waiting = []
        for number, prompt in enumerate(prompts[1:], 1):
            waiting.append(pool.submit(narrow.ask, prompt, max_length=1, queue_priority=int(prompt)))
            wait_for(narrow, functools.partial(waiting_are, number))
        for future in waiting:
            future.result()
    for line in others:  # an answer may overtake the log
        line.wait()
    found = (re.search(r"request with 1 sequences.*prompt='(.*?)'", line) for line in narrow.log)
    admitted = [match[1] for match in found if match is not None]
    assert [prompt for prompt in admitted if prompt in prompts] == [prompts[0], "1", "3"]
    with pytest.raises(InferenceServerException, match="queue_priority is 4; it has to be a whole number from 1 to 3"):
        narrow.ask(BANANA, queue_priority=4)


def test_a_cancelled_call_frees_the_place(narrow: Serving) -> None:
    """Over gRPC: tritonserver 2.51 does not look at the connections of plain HTTP requests while they run."""
    cancelled = LogLine(narrow, "The client has cancelled the request")
    inputs = []
    for name, datatype, value in (
        ("prompts", "BYTES", LONG),
        ("max_length", "INT64", 900),
        ("min_length", "INT64", 900),
    ):
        tensor = tritonclient.grpc.InferInput(name, [1, 1], datatype)
        tensor.set_data_from_numpy(np.array([[value]], dtype=DTYPES[datatype]))
        inputs.append(tensor)
    with tritonclient.grpc.InferenceServerClient(narrow.server.grpc_url) as client:
        started = LogLine(narrow, "request with 1 sequences")
        call = client.async_infer(narrow.model, inputs, callback=lambda result, error: None)
        started.wait()
        call.cancel()
        cancelled.wait()
    assert narrow.ask(BANANA, max_length=8).sentences == [" Yellow."]
