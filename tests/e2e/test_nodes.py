"""Two nodes, as far as one machine can be two: a torchrun of its own for each, TCP between them."""

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.serving import PROMPTS, READY_SECONDS, Asker, build
from trition_repo_gen.runtime.common.parent_death import PARENT_VARIABLE
from trition_repo_gen.server import free_ports, running_server


def test_tensor_parallel_over_two_nodes(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    references: dict[str, list[dict[str, Any]]],
    megatron_python: Path,
) -> None:
    http, grpc, metrics, meeting = free_ports(4)
    rendezvous = f"127.0.0.1:{meeting}"
    flags = ["--tensor-parallel-size", "2", "--num-nodes", "2", "--num-gpus", "1", "--rendezvous", rendezvous]
    build(checkpoints["llama"], "llama", tmp_path, megatron_python, *flags)
    # What docs/nodes.md tells to run on every other node.
    with (tmp_path / "other-node.log").open("wb") as log:
        other = subprocess.Popen(
            [
                *(megatron_python, tmp_path / "llama/1/model.py", "--nnodes", "2", "--nproc-per-node", "1"),
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous, "--rdzv-id", "trgen", "--max-restarts", "3"),
                *("--local-addr", "127.0.0.1"),
            ],
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with running_server(tmp_path, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=READY_SECONDS):
            reply = Asker(f"127.0.0.1:{http}", "llama")(PROMPTS, max_length=32)
    finally:
        other.terminate()
        other.wait()

    assert reply.sentences == [expected["text"] for expected in references["llama"]]
