"""A checkpoint behind stock tritonserver, and questions to it."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.deployment import Repository
from bench.report import console
from trition_repo_gen.clients.address import parse_url
from trition_repo_gen.clients.triton import TritonModel, column
from trition_repo_gen.repository.build import build_repository
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.server import Server, free_ports, running_server

READY_SECONDS = 400.0


@dataclass(frozen=True)
class Host:
    """Where and with what to serve."""

    folder: Path
    """For repositories and logs."""
    rank_python: str
    tritonserver: str | None
    nemo_python: str | None = None
    """The interpreter for NeMo 2.0 checkpoints."""


@dataclass
class Serving:
    """One model behind its own tritonserver, which may be loading still."""

    server: Server
    repository: Repository
    log: list[str] = field(repr=False)
    predicted_gib: float
    """Memory of a GPU that `trgen build` said would be used."""
    started: float = field(default_factory=time.monotonic)
    ready_seconds: float = 0.0

    @property
    def model(self) -> str:
        """The model's name."""
        return self.repository.model

    @property
    def url(self) -> str:
        """HOST:PORT of the HTTP endpoint."""
        assert self.server.http_url is not None
        return self.server.http_url

    def wait_ready(self) -> None:
        """Wait until the model answers."""
        self.server.wait_ready(READY_SECONDS)
        self.ready_seconds = time.monotonic() - self.started
        console.print(f"{self.model}: ready after {self.ready_seconds:.1f} s", style="dim")

    def ask(self, prompts: Sequence[str], max_length: int, *, echo: bool = False) -> list[dict[str, Any]]:
        """Return each prompt's greedy answer: its text, its number of tokens, and log-probabilities (nats)."""
        inputs = {
            "prompts": column([prompt.encode() for prompt in prompts], np.object_),
            "max_length": column([max_length] * len(prompts), np.int64),
            "compute_logprob": column([True] * len(prompts), np.bool_),
            "echo": column([echo] * len(prompts), np.bool_),
        }
        outputs = ("sentences", "completion_tokens", "log_probs", "log_probs_lengths")
        with TritonModel(parse_url(self.url), self.model, timeout=300.0) as model:
            answer = model.infer(inputs, outputs)
        return [
            {
                "text": text.decode(errors="surrogateescape"),
                "tokens": int(tokens),
                "log_probs": sequence[: int(length)].tolist(),
            }
            for text, tokens, sequence, length in zip(
                answer["sentences"][:, 0],
                answer["completion_tokens"][:, 0],
                answer["log_probs"],
                answer["log_probs_lengths"][:, 0],
                strict=True,
            )
        ]


def build(host: Host, model: str, checkpoint: Path, *, nemo: bool = False, **options: Any) -> tuple[Repository, float]:
    """Build a repository that serves in bfloat16.

    Options are `BuildOptions`' fields; with `nemo` the checkpoint is a NeMo 2.0 one.

    Returns:
        the repository, and how many GiB of a GPU it says that it will use.
    """
    folder = host.folder / model / "repository"
    built = build_repository(
        BuildOptions(
            megatron_checkpoint=None if nemo else checkpoint,
            nemo_checkpoint=checkpoint if nemo else None,
            model_name=model,
            model_repository=folder,
            rank_python=host.nemo_python if nemo else host.rank_python,
            params_dtype="bfloat16",
            **options,
        )
    )
    return Repository(folder, model), built.sizing.total / 2**30


@contextlib.contextmanager
def serving(host: Host, model: str, checkpoint: Path, **options: Any) -> Iterator[Serving]:
    """Build a repository and serve it; the model loads in the background.

    Options are those of `build`. Call it from the main thread.
    """
    repository, predicted_gib = build(host, model, checkpoint, **options)
    http, grpc, metrics = free_ports(3)
    log: list[str] = []
    try:
        with running_server(
            repository.folder,
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            tritonserver=host.tritonserver,
            ready_within=None,
            on_line=log.append,
        ) as server:
            yield Serving(server, repository, log, predicted_gib)
    finally:
        (host.folder / model / "tritonserver.log").write_text("\n".join(log))
