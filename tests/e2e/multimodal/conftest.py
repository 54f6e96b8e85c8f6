"""Checkpoints of tiny models that take images, and servers of them."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.e2e.multimodal.cases import CASES, NEW_TOKENS
from tests.e2e.multimodal.prepared import BRIDGE_MODELS, NEMO_MODELS, RANDOM_MODELS, TRAINED, Build, Prepared
from tests.e2e.serving import Serving, run, serving_of
from tests.models.prepared import unless_done


@pytest.fixture(scope="session")
def prepared_images(
    shared_folder: Path, megatron_python: Path, nemo_python: Path, checkout: Path, tiny_qwen_vl: Path
) -> Prepared:
    """Random models and the trained one; nemo-toolkit, Megatron-Bridge and Hugging Face take half a minute each."""
    folder = shared_folder / "prepared_images"
    hugging_face, answers = folder / "hugging_face", folder / "answers"
    sources = {name: hugging_face / name for name in RANDOM_MODELS}
    nemo = {name: folder / "nemo" / name for name in (*NEMO_MODELS, TRAINED)}
    bridge = {name: folder / "bridge" / name for name in BRIDGE_MODELS}

    def pairs(checkpoints: dict[str, Path]) -> list[str | Path]:
        return [path for name, out in checkpoints.items() for path in (sources.get(name, tiny_qwen_vl), out)]

    with unless_done(folder) as missing:
        if missing:
            answers.mkdir(exist_ok=True)
            (folder / "cases.json").write_text(json.dumps([asdict(case) for case in CASES]))
            scripts, examples = checkout / "tests/models", checkout / "examples"
            run([nemo_python, scripts / "random_vision_models.py", hugging_face, *RANDOM_MODELS])
            reference = [nemo_python, scripts / "vision_reference.py", folder / "cases.json", answers]
            commands: list[list[str | Path]] = [
                [nemo_python, examples / "make_nemo_checkpoint.py", "--dtype", "float32", *pairs(nemo)],
                [megatron_python, examples / "make_checkpoint.py", "--dtype", "float32", *pairs(bridge)],
                [*reference, *sources.values(), "--max-new-tokens", str(NEW_TOKENS)],
            ]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(run, commands))
    return Prepared(nemo, bridge, {name: json.loads((answers / f"{name}.json").read_text()) for name in RANDOM_MODELS})


@pytest.fixture(scope="session")
def build_multimodal(prepared_images: Prepared, megatron_python: Path, nemo_python: Path) -> Build:
    """Run `trgen build --multimodal` as a user does: `build_multimodal("nemo", "qwen2vl", repository, flag, …)`.

    It serves in float32, and writes no streaming model, unless told to.
    """

    def build(kind: str, checkpoint: str, repository: Path, *flags: str, name: str = "", stream: bool = False) -> None:
        python, path = {
            "nemo": (nemo_python, prepared_images.nemo),
            "bridge": (megatron_python, prepared_images.bridge),
        }[kind]
        flag = {"nemo": "--nemo-checkpoint", "bridge": "--megatron-checkpoint"}[kind]
        run(
            [
                Path(sys.executable).with_name("trgen"),
                *("build", "--multimodal", flag, path[checkpoint], "--model-repository", repository),
                *("--model-name", name or checkpoint, "--rank-python", python, "--params-dtype", "float32"),
                *([] if stream else ["--no-stream"]),
                *flags,
            ]
        )

    return build


@pytest.fixture(scope="session")
def one_rank(
    tmp_path_factory: pytest.TempPathFactory, prepared_images: Prepared, build_multimodal: Build
) -> Iterator[dict[str, Serving]]:
    """NeMo's checkpoints on one rank each, in one tritonserver; tests that only ask share it."""
    repository = tmp_path_factory.mktemp("images")
    for name in prepared_images.nemo:
        # The trained model's answers have margins that its own number format leaves alone.
        flags = ["--params-dtype", "bfloat16"] if name == TRAINED else []
        build_multimodal("nemo", name, repository, *flags, stream=name in ("qwen25vl", TRAINED))
    with serving_of(repository, *prepared_images.nemo) as servings:
        yield {serving.model: serving for serving in servings}
