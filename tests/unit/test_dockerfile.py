"""The Dockerfile, as far as it can be checked without Docker: a linter, what it names, and its steps run for real."""

import fnmatch
import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def instructions(checkout: Path) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as (NAME, rest), without comments."""
    lines = [line for line in (checkout / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def values(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [" ".join(rest.split()) for found, rest in instructions if found == name]


def test_linter(checkout: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    completed = subprocess.run([hadolint, "Dockerfile"], cwd=checkout, capture_output=True, text=True, check=False)

    assert (completed.returncode, completed.stdout) == (0, "")


def test_base_images_are_pinned_by_arguments(instructions: list[tuple[str, str]]) -> None:
    defaults = dict(argument.split("=", 1) for argument in values(instructions, "ARG"))
    stages = [image.split(" AS ")[-1] for image in values(instructions, "FROM")]

    for image in values(instructions, "FROM"):
        if image.split()[0] in stages:
            continue
        (argument,) = re.findall(r":\$\{(\w+)\}", image)
        assert re.match(r"\d+\.\d+", defaults[argument]), image


def test_uv_is_the_makefiles(checkout: Path, instructions: list[tuple[str, str]]) -> None:
    (version,) = re.findall(r"UV_VERSION := (\S+)", (checkout / "Makefile").read_text())

    assert f"UV_VERSION={version}" in values(instructions, "ARG")


def test_copied_files_exist_and_reach_the_build(checkout: Path, instructions: list[tuple[str, str]]) -> None:
    rules = (checkout / ".dockerignore").read_text().splitlines()
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for rest in values(instructions, "COPY"):
        *sources, _ = shlex.split(rest)
        if sources[0].startswith("--from"):
            continue
        for source in sources:
            assert (checkout / source).exists()
            # Docker's `*` stays within a folder, but here every pattern names one file or folder anyway.
            assert any(fnmatch.fnmatch(source, rule) or source.startswith(f"{rule}/") for rule in allowed), source


def test_steps_are_scripts_that_were_copied(checkout: Path, instructions: list[tuple[str, str]]) -> None:
    copied: set[str] = set()
    ran = []
    for name, rest in instructions:
        if name == "COPY":
            copied.update(shlex.split(rest)[:-1])
        words = [word for word in rest.split() if name == "RUN" and re.match("(scripts|locks)/", word)]
        ran += words
        assert set(words) <= copied
    for script in {word for word in ran if word.startswith("scripts/")}:
        # What a script names has to be in the image before it runs, too.
        assert (checkout / script).stat().st_mode & 0o111
        assert set(re.findall(r"\$root/((?:scripts|locks)/[\w.-]+)", (checkout / script).read_text())) <= copied


def test_environments_keep_their_places(instructions: list[tuple[str, str]]) -> None:
    moved = [rest.split()[1:] for rest in values(instructions, "COPY") if rest.startswith("--from")]
    environment = " ".join(values(instructions, "ENV"))

    assert moved
    assert all(source == target for source, target in moved)
    assert "TRGEN_RANK_PYTHON=/opt/megatron/bin/python" in environment
    assert "TRGEN_NEMO_PYTHON=/opt/nemo/bin/python" in environment
    assert "PATH=/opt/trgen/bin:${PATH}" in environment


def test_what_runs(instructions: list[tuple[str, str]]) -> None:
    stages = [index for index, (name, _) in enumerate(instructions) if name == "FROM"]
    # What is built unless a target is named, and the target with NeMo, are both this stage.
    (serving,) = (index for index in stages if instructions[index][1].endswith(" AS serving"))
    following = stages[stages.index(serving) + 1]
    final = dict(instructions[serving:following])

    assert instructions[-1] == ("FROM", "serving")
    assert ("FROM", "serving AS multimodal") in instructions
    assert final["USER"].split(":")[0] not in ("root", "0")
    assert "/opt/trgen/healthcheck.py" in final["HEALTHCHECK"]
    assert json.loads(final["ENTRYPOINT"]) == ["/opt/trgen/bin/trgen"]
    assert final["EXPOSE"].split() == ["8000", "8001", "8002", "8080"]
    assert final["VOLUME"] == "/models"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The environment /opt/trgen of the image, made by the same scripts."""
    uv = checkout / ".uv/bin/uv"
    folder = tmp_path_factory.mktemp("image") / "trgen"
    commands: list[list[str | Path]] = [
        ["scripts/install-environment", uv, sys.executable, "locks/serve.txt", folder],
        ["scripts/install-trgen", uv, folder],
    ]
    for command in commands:
        completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr[-4000:]
    return folder


def test_installed_trgen_runs(environment: Path, tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert run(environment / "bin/trgen", "--version").startswith("trgen ")
    program = "import importlib.util, msgpack, numpy, zmq; print(numpy.__version__, importlib.util.find_spec('torch'))"
    assert re.fullmatch(r"1\.\S+ None\n", run(environment / "bin/python3", "-c", program))
    located = "import trition_repo_gen, pathlib; print(pathlib.Path(trition_repo_gen.__file__).parent)"
    package = Path(run(environment / "bin/python", "-c", located).strip())
    assert package.is_relative_to(environment)
    assert (package / "templates/model.py.j2").is_file()
    assert (package / "rest/page/index.html").is_file()
    assert (package / "rest/page/page.js").is_file()
    run(environment / "bin/python", "-c", "import trition_repo_gen.rest.serving")


def test_lock_holds_all_that_trgen_needs(environment: Path, checkout: Path) -> None:
    command: list[str | Path] = [checkout / ".uv/bin/uv", "pip", "check", "-p", environment]

    completed = subprocess.run(command, capture_output=True, text=True, check=False)

    assert completed.returncode == 0, completed.stderr


def test_environment_is_compiled(environment: Path) -> None:
    site = environment / "lib/python3.12/site-packages"

    assert list(site.glob("trition_repo_gen/__pycache__/*.pyc"))
    assert list(site.glob("numpy/__pycache__/*.pyc"))


def test_extension_has_the_version_of_the_rest(checkout: Path) -> None:
    (version,) = re.findall(
        r"^transformer-engine-torch==(\S+)", (checkout / "locks/transformer-engine-torch.txt").read_text(), re.M
    )

    assert f"\ntransformer-engine-cu13=={version} " in (checkout / "locks/megatron-gpu.txt").read_text()


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """A server that gives canned answers, as HOST:PORT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, text = answers[self.path]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


READY = {"/v2/health/ready": (200, ""), "/v2/repository/index": (200, '[{"name": "llama", "state": "READY"}]')}
TOKEN = "/v2/models/llama/infer"
STREAM = "/v2/models/llama/generate_stream"
DECOUPLED = {TOKEN: (501, "HTTP end point doesn't support models with decoupled transaction policy")}


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        (READY | {TOKEN: (200, "{}")}, 0, ""),
        (READY | {TOKEN: (400, "no such input")}, 0, ""),
        (READY | {TOKEN: (500, "Stub process is not healthy.")}, 1, "llama: Stub process is not healthy."),
        (READY | {TOKEN: (503, "Rank 0 died.")}, 1, "llama: Rank 0 died."),
        (READY | {"/v2/health/ready": (400, "")}, 1, "tritonserver: "),
        (READY | DECOUPLED | {STREAM: (200, "data: {}")}, 0, ""),
        (READY | DECOUPLED | {STREAM: (400, "no such input")}, 0, ""),
        (READY | DECOUPLED | {STREAM: (400, "Stub process is not healthy.")}, 1, "llama: Stub process"),
    ],
    ids=[
        *("well", "another kind of model", "stub dead", "ranks dead", "loading"),
        *("streams", "another kind that streams", "stub of one that streams dead"),
    ],
)
def test_health_check(checkout: Path, answers: dict[str, tuple[int, str]], code: int, says: str) -> None:
    with answering(answers) as url:
        command: list[str | Path] = [sys.executable, checkout / "scripts/healthcheck.py", url]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)

    assert completed.returncode == code
    assert completed.stderr.startswith(says)


def test_health_check_without_a_server(checkout: Path) -> None:
    command: list[str | Path] = [sys.executable, checkout / "scripts/healthcheck.py", "127.0.0.1:1"]

    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
