"""The main job on this machine's CPU, from a trained tiny model to two answers. `make demo` runs it."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.http
from rich.console import Console

from trition_repo_gen.runtime.common import log_lines
from trition_repo_gen.server import free_ports, running_server

ROOT = Path(__file__).parents[1]
HUGGING_FACE = ROOT / "examples/tiny_llama"
CHECKPOINT = ROOT / ".cache/demo/tiny_llama"
REPOSITORY = ROOT / "model_repository"
MODEL = "tiny_llama"
BANANA, CAPITAL = "What is the color of a banana?", "What is the capital of United States?"

console = Console(highlight=False)


def main() -> int:
    """Run the demonstration; return 1 if an answer is wrong."""
    read_command_line(__doc__)
    python = os.environ["TRGEN_RANK_PYTHON"]
    run(
        "Megatron-Bridge converts the tiny model",
        [python, "examples/make_checkpoint.py", HUGGING_FACE, CHECKPOINT],
        only_last_line=True,
    )
    run(
        "trgen renders a model repository",
        [
            "trgen",
            "build",
            "--megatron-checkpoint",
            CHECKPOINT,
            "--model-name",
            MODEL,
            "--model-repository",
            REPOSITORY,
        ],
    )

    http, grpc, metrics = free_ports(3)
    console.rule("stock tritonserver starts, its ranks load the model")
    started = time.monotonic()
    with running_server(
        REPOSITORY, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=300, on_line=show_rank
    ) as server:
        console.print(f"[green]ready[/] after {time.monotonic() - started:.1f} s at {server.http_url}")
        first = run(
            "trgen query asks",
            ["trgen", "query", "-u", f"127.0.0.1:{http}", "-mn", MODEL, "-p", BANANA],
        )
        console.rule("plain tritonclient asks over HTTP")
        second = ask(f"127.0.0.1:{http}", CAPITAL)
        console.print(f"{CAPITAL}\n{second}")
    console.print("[green]tritonserver and its ranks have ended[/]")

    right = "Yellow" in first and "Washington" in second
    if not right:
        console.print("[red]An answer is wrong.[/]")
    return 0 if right else 1


def read_command_line(text: str | None) -> None:
    """Refuse options, of which there is none, and print the text for --help."""
    argparse.ArgumentParser(description=text).parse_args()


def run(title: str, command: list[str | Path], *, only_last_line: bool = False) -> str:
    """Run a command under its title; return what it printed. What it wrote to stderr is shown if it fails."""
    console.rule(title)
    words = [os.path.relpath(word, ROOT) if isinstance(word, Path) else word for word in command]
    console.print("$ " + " ".join(words), soft_wrap=True, style="dim")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with console.status("…"):
        completed = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
    printed = completed.stdout.strip()
    console.print(printed.splitlines()[-1] if only_last_line and printed else printed, markup=False, soft_wrap=True)
    if completed.returncode:
        console.print(completed.stderr.strip(), markup=False, soft_wrap=True)
        sys.exit(f"`{' '.join(words)}` failed with exit code {completed.returncode}.")
    return completed.stdout


def ask(url: str, prompt: str) -> str:
    """Ask one question as any Triton client does."""
    client = tritonclient.http.InferenceServerClient(url)
    tensor = tritonclient.http.InferInput("prompts", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[prompt.encode()]], dtype=np.object_))
    answer: bytes = client.infer(MODEL, [tensor]).as_numpy("sentences")[0, 0]
    return answer.decode()


def show_rank(line: str) -> None:
    """Show what the ranks say, and leave out tritonserver's own log."""
    if log_lines.parse(line):
        console.print(line, style="dim", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
