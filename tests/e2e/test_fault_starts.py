"""Ranks that stop while they start, ranks that raise, ranks that may not start again: the log says which and why."""

import os
import re
import signal
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import PROMPTS, READY_SECONDS, LogLine, build, serving_of, wait_for_end
from trition_repo_gen.server import ServerExitedError, free_ports, running_server

STEP = "result = await engine.step()"
PATIENCE = 30
"""Seconds until ranks count as late."""


def rank_process(rank: int, repository: Path) -> int:
    """Return the process id of a rank of a server that serves this repository."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, command = (folder / "comm").read_text().strip(), (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if name.endswith(f"rank {rank}") and str(repository) in command:
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not there")


def test_a_rank_that_stops_while_it_starts_is_named(
    tmp_path: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> None:
    flags = ("--tensor-parallel-size", "2", "--start-timeout", str(PATIENCE))
    build(checkpoints["llama"], "stuck", tmp_path, megatron_python, *flags)
    stopped: list[int] = []

    def stop_rank(line: str) -> None:
        if "rank 1: importing torch" in line and not stopped:
            stopped.append(rank_process(1, tmp_path))
            os.kill(stopped[0], signal.SIGSTOP)

    http, grpc, metrics = free_ports(3)
    with (
        pytest.raises(ServerExitedError, match=rf"The ranks were not ready after {PATIENCE} s: rank \d") as error,
        running_server(
            tmp_path,
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            ready_within=READY_SECONDS,
            on_line=stop_rank,
        ),
    ):
        pass
    if stopped:
        assert re.search(r"rank 1 said nothing after '[^']+'; if they need", str(error.value))
        wait_for_end(stopped, 30)
    else:  # a machine so slow that no rank had begun by then
        assert "rank 0, rank 1 did not start" in str(error.value)


def test_a_rank_that_raises_shows_its_traceback_and_how_often_it_starts_is_bounded(
    tmp_path: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> None:
    build(checkpoints["llama"], "raises", tmp_path, megatron_python, "--max-restarts", "0")
    serving_loop = tmp_path / "raises/1/runtime/rank/loop/serving.py"
    text = serving_loop.read_text()
    assert text.count(STEP) == 1
    serving_loop.write_text(text.replace(STEP, 'raise RuntimeError("nobody expects this")'))

    with serving_of(tmp_path, "raises") as (serving,):
        shown = LogLine(serving, "rank 0 | RuntimeError: nobody expects this")
        gone = LogLine(serving, "The ranks are gone for good: torchrun exited with code 1")
        with pytest.raises(InferenceServerException, match="Rank 0 of the model died") as error:
            serving.ask(PROMPTS[0])
        assert error.value.status() == "503"
        shown.wait()
        gone.wait()
        with pytest.raises(InferenceServerException, match="The ranks are gone for good") as error:
            serving.ask(PROMPTS[0])
        assert error.value.status() == "503"
