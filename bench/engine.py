"""The process of `in_process.py`, or of a script like it: starts it, hands it runs, ends it."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from bench.deployment import Repository
from bench.load import Lengths

SCRIPT = Path(__file__).with_name("in_process.py")


class InProcess:
    """A process in the ranks' environment with the engine in it."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]):
        self._process = process
        self._errors = errors

    def wait_ready(self) -> None:
        """Wait until the engine takes sequences."""
        self._answer()

    def rate(self, engine: str, clients: int, prompts: Sequence[str], max_length: Lengths) -> float:
        """Continue all prompts with `clients` of them in flight; return tokens per second."""
        answer = self.run(engine, clients, prompts, max_length)
        return float(answer["tokens"] / answer["seconds"])

    def run(self, engine: str, clients: int, prompts: Sequence[str], max_length: Lengths) -> dict[str, Any]:
        """Do the same; return seconds, new tokens and the seconds of the longest step."""
        return self.ask({"engine": engine, "clients": clients, "prompts": list(prompts), "max_length": max_length})

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Hand the process a command of its script, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{SCRIPT.name} ended:\n{self._errors.read()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def in_process(repository: Repository, rank_python: Path, script: Path = SCRIPT) -> Iterator[InProcess]:
    """Run the process within a `with` block, which begins when the engine takes sequences."""
    with starting(repository, rank_python, script) as engine:
        engine.wait_ready()
        yield engine


@contextlib.contextmanager
def starting(repository: Repository, rank_python: Path, script: Path = SCRIPT, *arguments: str) -> Iterator[InProcess]:
    """Do the same, but begin at once; `arguments` are the script's after the version's folder."""
    environment = os.environ | {"TRGEN_SETTINGS": json.dumps(repository.parameters())}
    for name, value in (("GLOO_SOCKET_IFNAME", "lo"), ("GOMP_SPINCOUNT", "1000")):  # as the ranks have them
        environment.setdefault(name, value)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [rank_python, script, repository.version_folder, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield InProcess(process, errors)
        finally:
            process.kill()
            process.communicate()
