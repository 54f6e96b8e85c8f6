"""Ranks that die, ranks that never start, servers that are killed: nobody hangs, nothing is left."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import (
    PROMPTS,
    READY_SECONDS,
    LogLine,
    Serve,
    Serving,
    build,
    command_line,
    samples,
    wait_for,
    wait_for_end,
)
from trition_repo_gen.clients import LLMClient, ServerFailedError
from trition_repo_gen.server import ServerExitedError, free_ports, running_server
from trition_repo_gen.server.descendants import marked_processes

LONG = "Count from one to twenty."


@pytest.fixture(scope="module")
def two_ranks(serve: Serve) -> Any:
    with serve("llama", "--tensor-parallel-size", "2") as serving:
        yield serving


def test_a_killed_rank_fails_what_runs_and_comes_back(two_ranks: Serving) -> None:
    expected = two_ranks.ask(PROMPTS[0]).sentences
    killed = two_ranks.server.ranks()
    assert sorted(killed) == [0, 1]
    restarts = samples(two_ranks).get("rank_restarts_total", 0.0)
    died = LogLine(two_ranks, "rank 1 died (start 1 of 4)")
    back = LogLine(two_ranks, "2 ranks take requests")

    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(two_ranks.ask, LONG, max_length=900, min_length=900, top_k=0, temperature=9.0, random_seed=seed)
            for seed in range(4)
        ]
        two_ranks.ask(PROMPTS[0], max_length=1)  # answered by a step that the others take part in
        os.kill(killed[1], signal.SIGKILL)
        for request in running:
            with pytest.raises(
                InferenceServerException, match=r"Rank 1 of the model died; .* being started again"
            ) as error:
                request.result()
            assert error.value.status() == "503"

    died.wait()
    back.wait()
    assert two_ranks.ask(PROMPTS[0]).sentences == expected
    wait_for(two_ranks, lambda found: found.get("rank_restarts_total", 0.0) == restarts + 1)
    wait_for_end(list(killed.values()), 30)


def test_a_killed_leader_fails_what_runs_and_comes_back(two_ranks: Serving) -> None:
    expected = two_ranks.ask(PROMPTS[0]).sentences
    back = LogLine(two_ranks, "2 ranks take requests")

    os.kill(two_ranks.server.ranks()[0], signal.SIGKILL)

    back.wait()
    assert two_ranks.ask(PROMPTS[0]).sentences == expected


def test_a_killed_rank_ends_streams_with_the_reason(two_ranks: Serving) -> None:
    expected = two_ranks.ask(PROMPTS[0]).sentences
    back = LogLine(two_ranks, "2 ranks take requests")
    started = threading.Semaphore(0)

    def stream(number: int) -> None:
        url = f"grpc://{two_ranks.server.grpc_url}" if number % 2 else two_ranks.http
        with LLMClient(url, two_ranks.model) as client:
            pieces = client.stream(LONG, max_length=900, min_length=900, top_k=0, temperature=9.0, random_seed=number)
            next(pieces)
            started.release()
            for _ in pieces:
                pass

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(stream, number) for number in range(4)]
        for _ in running:
            assert started.acquire(timeout=READY_SECONDS)
        os.kill(two_ranks.server.ranks()[1], signal.SIGKILL)
        for request in running:
            with pytest.raises(ServerFailedError, match=r"Rank 1 of the model died; .* being started again"):
                request.result()

    back.wait()
    assert two_ranks.ask(PROMPTS[0]).sentences == expected
    wait_for(two_ranks, lambda found: found["num_requests_running"] == found["kv_cache_usage_perc"] == 0)


def test_nothing_survives_a_killed_tritonserver(two_ranks: Serving) -> None:
    processes = marked_processes(two_ranks.server.mark)
    assert len(processes) >= 7  # tritonserver, two stubs, a guardian, torchrun, two ranks

    os.kill(two_ranks.server.pid, signal.SIGKILL)

    wait_for_end(processes, 30)


def test_a_killed_stub_is_reported_by_the_health_check_and_survived_by_nothing(serve: Serve, checkout: Path) -> None:
    def health_check(serving: Serving) -> tuple[int, str]:
        command: list[str | Path] = [sys.executable, checkout / "scripts/healthcheck.py", serving.http]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        return completed.returncode, completed.stderr.partition(":")[0]

    def kill_stub(serving: Serving, model: str) -> None:
        (stub,) = [
            pid
            for pid in marked_processes(serving.server.mark)
            if _program(pid) == "triton_python_backend_stub" and f"/{model}/" in command_line(pid)
        ]
        os.kill(stub, signal.SIGKILL)

    with serve("llama") as serving:
        ranks = serving.server.ranks()
        assert health_check(serving) == (0, "")

        kill_stub(serving, f"{serving.model}_stream")
        assert health_check(serving) == (1, f"{serving.model}_stream")
        assert serving.ask(PROMPTS[0], max_length=1).completion_tokens == [1]

        kill_stub(serving, serving.model)
        wait_for_end(list(ranks.values()), 30)
        assert health_check(serving)[0] == 1


def test_ranks_that_cannot_start_end_tritonserver_with_the_reason(
    tmp_path: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> None:
    build(checkpoints["llama"], "broken", tmp_path, megatron_python)
    config = tmp_path / "broken/config.pbtxt"
    text = config.read_text()
    config.write_text(text.replace(str(checkpoints["llama"]), "/nowhere"))
    http, grpc, metrics = free_ports(3)

    with (
        pytest.raises(ServerExitedError, match=r"Rank 0 cannot start: .*nowhere"),
        running_server(tmp_path, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=READY_SECONDS),
    ):
        pass


def test_an_interpreter_that_is_not_there_is_named(
    tmp_path: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> None:
    build(checkpoints["llama"], "pythonless", tmp_path, Path("/nowhere/python"))
    http, grpc, metrics = free_ports(3)

    with (
        pytest.raises(ServerExitedError, match="RANK_PYTHON is '/nowhere/python', which cannot be run"),
        running_server(tmp_path, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=READY_SECONDS),
    ):
        pass


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
