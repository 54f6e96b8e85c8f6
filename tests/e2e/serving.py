"""Helpers of the end-to-end tests: a plain client, and deployments of one model."""

import contextlib
import json
import os
import re
import select
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from tests.commands import run as run
from tests.models.prepared import PROMPTS as PROMPTS
from trition_repo_gen.runtime.common import wire
from trition_repo_gen.server import Server, free_ports, running_server

READY_SECONDS = 300.0
DTYPES = {"BYTES": np.object_, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
INPUTS = {tensor.name: tensor.datatype for tensor in wire.INPUTS}


@dataclass
class Reply:
    """The outputs of one request, a list of sequences each."""

    sentences: list[str]
    finish_reason: list[str]
    prompt_tokens: list[int]
    completion_tokens: list[int]
    log_probs: list[list[float]] = field(default_factory=list)
    top_logprobs: list[list[dict[str, float]]] = field(default_factory=list)


class Asker:
    """A plain tritonclient, with sequences in and sequences out."""

    def __init__(self, url: str, model: str):
        self._url = url
        self._model = model

    def __call__(
        self,
        prompts: str | bytes | Sequence[str | bytes],
        *,
        timeout: float | None = None,
        queue_priority: int | None = None,
        **values: Any,
    ) -> Reply:
        """Send one request; a single value holds for all sequences. `timeout` is the request's own, in seconds."""
        prompts = [prompts] if isinstance(prompts, str | bytes) else prompts
        inputs = [_input("prompts", "BYTES", [p.encode() if isinstance(p, str) else p for p in prompts])]
        for name, value in values.items():
            inputs.append(_input(name, INPUTS[name], value if isinstance(value, list) else [value] * len(prompts)))
        with contextlib.closing(self.client()) as client:
            result = client.infer(
                self._model,
                inputs,
                timeout=None if timeout is None else round(timeout * 1e6),
                parameters=None if queue_priority is None else {"queue_priority": queue_priority},
            )
        outputs = {name: result.as_numpy(name) for name in (o["name"] for o in result.get_response()["outputs"])}
        lengths = outputs.get("log_probs_lengths", np.zeros((0, 1), dtype=np.int64))[:, 0]
        return Reply(
            sentences=[sequence.decode(errors="surrogateescape") for sequence in outputs["sentences"][:, 0]],
            finish_reason=[sequence.decode() for sequence in outputs["finish_reason"][:, 0]],
            prompt_tokens=outputs["prompt_tokens"][:, 0].tolist(),
            completion_tokens=outputs["completion_tokens"][:, 0].tolist(),
            log_probs=[
                sequence[:n].tolist() for sequence, n in zip(outputs.get("log_probs", []), lengths, strict=True)
            ],
            top_logprobs=[json.loads(sequence) for sequence in outputs.get("top_logprobs", np.zeros((0, 1)))[:, 0]],
        )

    def client(self) -> tritonclient.http.InferenceServerClient:
        """Return a client of its own: tritonclient's are not for several threads."""
        return tritonclient.http.InferenceServerClient(self._url, network_timeout=600.0)


def _input(name: str, datatype: str, values: list[Any]) -> tritonclient.http.InferInput:
    tensor = tritonclient.http.InferInput(name, [len(values), 1], datatype)
    tensor.set_data_from_numpy(np.array([[value] for value in values], dtype=DTYPES[datatype]))
    return tensor


@dataclass(frozen=True)
class Serving:
    """A running deployment of one model."""

    server: Server
    model: str
    ask: Asker
    log: list[str]
    listeners: list[Callable[[str], None]]
    """Called with each further line of the log."""

    @property
    def http(self) -> str:
        """HOST:PORT of the HTTP endpoint."""
        assert self.server.http_url is not None
        return self.server.http_url


@contextlib.contextmanager
def serving_of(repository: Path, *models: str) -> Iterator[list[Serving]]:
    """Serve a repository; gives a `Serving` for each of its models that is named."""
    http, grpc, metrics = free_ports(3)
    log: list[str] = []
    listeners: list[Callable[[str], None]] = [log.append]

    def on_line(line: str) -> None:
        for listener in list(listeners):
            listener(line)

    with running_server(
        repository,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        ready_within=READY_SECONDS,
        on_line=on_line,
    ) as server:
        yield [Serving(server, model, Asker(f"127.0.0.1:{http}", model), log, listeners) for model in models]


class LogLine:
    """Waits for the next line of the server's log that has a text in it."""

    def __init__(self, serving: "Serving", text: str):
        self._found = threading.Event()
        self._text = text
        serving.listeners.append(self._encode_images)

    def _encode_images(self, line: str) -> None:
        if self._text in line:
            self._found.set()

    def wait(self) -> None:
        """Wait until it came."""
        assert self._found.wait(READY_SECONDS), f"no line with {self._text!r} came"


Samples = dict[str, float]


def samples(serving: Serving) -> Samples:
    """Return the model's own samples: name and labels besides the model's → value."""
    with urllib.request.urlopen(f"http://{serving.server.metrics_url}/metrics") as response:
        lines = response.read().decode().splitlines()
    found = {}
    for line in lines:
        if match := re.fullmatch(r"trgen:(\w+)\{(.*)\} (\S+)", line):
            name, labels, value = match.groups()
            rest = ",".join(sorted(pair for pair in labels.split(",") if not pair.startswith(("model=", "version="))))
            found[f"{name} {rest}".strip()] = float(value)
    return found


def wait_for(serving: Serving, condition: Callable[[Samples], bool], seconds: float = 60.0) -> Samples:
    """Read the metrics until they fit.

    This is a poll: a model hands its sums to Triton twice a second, and neither tells anybody that it has.
    """
    deadline = time.monotonic() + seconds
    while not condition(found := samples(serving)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)  # the ranks need the cores
    return found


def wait_for_end(pids: list[int], seconds: float) -> None:
    """Wait until these processes have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        readable, _, _ = select.select([descriptor], [], [], seconds)
        os.close(descriptor)
        assert readable, f"process {pid} lives on: {command_line(pid)}"


def command_line(pid: int) -> str:
    """Return a process's command line, with spaces between its words."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def build(checkpoint: Path, model: str, repository: Path, megatron_python: Path, *flags: str) -> None:
    """Run `trgen build` as a user does."""
    source: list[str | Path] = ["--megatron-checkpoint", checkpoint, "--rank-python", megatron_python]
    target: list[str | Path] = ["--model-name", model, "--model-repository", repository]
    run([Path(sys.executable).with_name("trgen"), "build", *source, *target, *flags])


def seeded_answers(serving: Serving, seeds: int = 50) -> tuple[list[str], list[str]]:
    """Return sampled answers to one prompt, a seed each: asked one after the other, and each among 31 others."""

    def ask(seed: int) -> str:
        return serving.ask("a", max_length=8, top_k=0, temperature=1.5, random_seed=seed).sentences[0]

    def ask_other(number: int) -> None:
        serving.ask(PROMPTS[number % len(PROMPTS)], max_length=4 + number % 9, top_k=0, temperature=2.0)

    alone = [ask(seed) for seed in range(seeds)]
    with ThreadPoolExecutor(32) as pool:
        answers = []
        for number in range(seeds):
            answers.append(pool.submit(ask, number))
            pool.submit(ask_other, number)
        return alone, [answer.result() for answer in answers]


Serve = Callable[..., AbstractContextManager[Serving]]


def assert_same_answers(replies: list[Reply], expected: list[dict[str, Any]]) -> None:
    """Compare texts, token counts and the log-probability of every chosen token.

    Text alone would not do: bytes that are no character look alike.
    """
    got = [(reply.sentences[0], reply.completion_tokens[0], reply.finish_reason[0]) for reply in replies]
    assert got == [(e["text"], len(e["generated_ids"]), e["finish_reason"]) for e in expected]
    for reply, reference in zip(replies, expected, strict=True):
        assert reply.log_probs[0] == pytest.approx(reference["generated_log_probs"], abs=1e-3)
