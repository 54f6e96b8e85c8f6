"""A full server: who waits, who is turned away."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import Reply, Serve, Serving

LONG = "Count from one to fifty."


@pytest.fixture(scope="module")
def narrow(serve: Serve) -> Iterator[Serving]:
    """One row at a time, one request may wait."""
    with serve("llama", "--max-requests", "1", "--max-queue-size", "1") as serving:
        yield serving


def test_one_runs_one_waits_and_the_third_is_turned_away(narrow: Serving) -> None:
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(narrow.ask, LONG, max_length=400) for _ in range(3)]
    refused = [future.exception() for future in futures if future.exception()]
    assert [str(error) for error in refused] == [
        "[503] The server is full and 1 requests wait already; try again later."
    ]
    replies: list[Future[Reply]] = [future for future in futures if not future.exception()]
    assert len({future.result().sentences[0] for future in replies}) == 1


def test_a_request_with_a_timeout_does_not_wait_longer(narrow: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(narrow.ask, LONG, max_length=400, timeout=0.1) for _ in range(2)]
    (refused,) = (future.exception() for future in futures if future.exception())
    assert isinstance(refused, InferenceServerException)
    assert refused.status() == "503"
    assert refused.message() == "The server was full for as long as the request could wait; try again later."
    assert narrow.ask("What is the color of a banana?", max_length=8).sentences == [" Yellow."]
