"""A model that reads pictures on this machine's CPU, from weights to two answers. `make demo-multimodal` runs it."""

import base64
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.http
from demo import ROOT, console, read_command_line, run, show_rank

from trition_repo_gen.server import free_ports, running_server

HUGGING_FACE = ROOT / "examples/tiny_qwen_vl"
CHECKPOINT = ROOT / ".cache/demo/tiny_qwen_vl"
REPOSITORY = ROOT / ".cache/demo/model_repository"
PICTURES = ROOT / ".cache/demo/pictures"
MODEL = "tiny_qwen_vl"

sys.path.insert(0, str(HUGGING_FACE))
import pictures  # noqa: E402


def main() -> int:
    """Run the demonstration; return 1 if an answer is wrong."""
    read_command_line(__doc__)
    run(
        "nemo-toolkit makes a NeMo 2.0 checkpoint of the tiny model",
        [os.environ["TRGEN_NEMO_PYTHON"], "examples/make_nemo_checkpoint.py", HUGGING_FACE, CHECKPOINT],
        only_last_line=True,
    )
    run(
        "trgen renders a model repository",
        [
            *("trgen", "build", "--nemo-checkpoint", CHECKPOINT, "--multimodal"),
            *("--model-name", MODEL, "--model-repository", REPOSITORY),
        ],
    )
    drawn = pictures.draw(random.Random())
    path = PICTURES / f"{drawn.color}-{drawn.shape}.png"
    PICTURES.mkdir(parents=True, exist_ok=True)
    drawn.image.save(path)

    http, grpc, metrics = free_ports(3)
    console.rule("stock tritonserver starts, its rank loads the model")
    started = time.monotonic()
    with running_server(
        REPOSITORY, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=300, on_line=show_rank
    ) as server:
        console.print(f"[green]ready[/] after {time.monotonic() - started:.1f} s at {server.http_url}")
        url = f"127.0.0.1:{http}"
        first, second = "What is in this image?", "What color is it?"
        answers = [
            run(
                f"trgen query asks about {path.name}, drawn just now",
                ["trgen", "query", "-u", url, "-mn", MODEL, "--image", path, "-p", first],
            ).strip()
        ]
        console.rule(f"plain tritonclient asks about {path.name} over HTTP")
        answers.append(ask(url, second, path))
        console.print(f"{second}\n{answers[-1]}")
    console.print("[green]tritonserver and its rank have ended[/]")

    for question, answer in zip((first, second), answers, strict=True):
        if answer != drawn.answer(question):
            console.print(f"[red]«{answer}» is wrong: {path.name}, {question}[/]")
            return 1
    return 0


def ask(url: str, prompt: str, picture: Path) -> str:
    """Ask one question about a picture as any Triton client does."""
    client = tritonclient.http.InferenceServerClient(url)
    inputs = []
    for name, value in (("prompts", prompt.encode()), ("images", base64.b64encode(picture.read_bytes()))):
        tensor = tritonclient.http.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
        inputs.append(tensor)
    answer: bytes = client.infer(MODEL, inputs).as_numpy("sentences")[0, 0]
    return answer.decode()


if __name__ == "__main__":
    sys.exit(main())
