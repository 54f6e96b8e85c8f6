"""The wheel outside the checkout, and a repository on a machine that has never seen trgen."""

import json
import os
import shutil
import subprocess
import sysconfig
import urllib.request
from pathlib import Path

import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e import test_serve_lifecycle
from tests.e2e.serving import PROMPTS, READY_SECONDS, Asker, run
from trition_repo_gen.server import free_ports
from trition_repo_gen.server.descendants import MARK, end_marked


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """A fresh virtual environment with the built wheel, its extras for serving and nothing else."""
    folder = tmp_path_factory.mktemp("fresh")
    python = checkout / ".venv/bin/python"
    run([python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"], cwd=checkout)
    (wheel,) = (folder / "dist").glob("*.whl")
    uv = checkout / ".uv/bin/uv"
    run([uv, "venv", "-q", "-p", python, folder / "venv"])
    requirement = f"trition-repo-gen[triton,serve] @ {wheel.as_uri()}"
    constraints = checkout / "locks/base.txt"
    run([uv, "pip", "install", "-q", "-p", folder / "venv", "-c", constraints, "--compile-bytecode", requirement])
    return folder / "venv"


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, environment: Path, checkpoints: dict[str, Path], megatron_python: Path
) -> Path:
    """A repository that the installed wheel has built, far from the checkout, and that was moved since."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(
        [
            *(environment / "bin/trgen", "build", "--megatron-checkpoint", checkpoints["llama"]),
            *("--model-name", "tiny", "--rank-python", megatron_python),
        ],
        cwd=folder,
    )
    return (folder / "model_repository").rename(folder / "moved")


def test_the_plain_install_needs_no_gpu_stack(environment: Path) -> None:
    listed = subprocess.run(
        [
            environment / "bin/python",
            "-c",
            "import importlib.metadata as m; print(*(d.name for d in m.distributions()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert "torch" not in listed
    assert "megatron-core" not in listed


def test_the_wheel_carries_what_installs_the_ranks_environment(environment: Path, checkout: Path) -> None:
    package = environment / "lib/python3.12/site-packages/trition_repo_gen"

    for lock in ("build", "megatron", "megatron-gpu", "nemo", "transformer-engine-torch"):
        assert (package / f"locks/{lock}.txt").read_bytes() == (checkout / f"locks/{lock}.txt").read_bytes()
    for script in ("install-environment", "install-transformer-engine-extension"):
        carried = package / "scripts" / script
        assert carried.read_bytes() == (checkout / "scripts" / script).read_bytes()
        assert carried.stat().st_mode & 0o111
    program = (
        "from trition_repo_gen.environments import extension_script, lock_file\n"
        "print(lock_file(), lock_file(gpu=True), lock_file(nemo=True), extension_script())"
    )
    names = ("locks/megatron.txt", "locks/megatron-gpu.txt", "locks/nemo.txt")
    carried_names = (*names, "scripts/install-transformer-engine-extension")
    found = run([environment / "bin/python", "-I", "-c", program], cwd=environment)
    assert found.split() == [str(package / name) for name in carried_names]


def test_the_installed_trgen_serves_and_asks(
    repository: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trgen = environment / "bin/trgen"
    monkeypatch.setattr(test_serve_lifecycle, "TRGEN", str(trgen))
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "log").open("wb") as log:
        serving = test_serve_lifecycle.Trgen(repository, stderr=log.fileno(), rest=True)
    try:
        serving.until("query:")
        assert str(trgen) in Path(f"/proc/{serving.process.pid}/cmdline").read_text().split("\0")
        assert serving.descendants()  # the search below sees them
        assert run([trgen, "query", "-u", f"127.0.0.1:{serving.http}", "-mn", "tiny", "-p", PROMPTS[0]]) == " Yellow.\n"

        chat = {"model": "tiny", "messages": [{"role": "user", "content": PROMPTS[0]}], "temperature": 0}
        answer = json.loads(fetch(f"http://127.0.0.1:{serving.rest}/v1/chat/completions", chat))
        assert answer["choices"][0]["message"]["content"] == " Yellow."
        assert "<title>trgen</title>" in fetch(f"http://127.0.0.1:{serving.rest}/")

        serving.process.terminate()
        serving.process.wait()
        assert (serving.process.returncode, serving.descendants()) == (0, [])
    finally:
        print((tmp_path / "log").read_text()[-3000:])  # shown if something was wrong
        serving.kill_all()


def test_plain_tritonserver_serves_it_without_trgen(
    repository: Path, environment: Path, checkout: Path, tmp_path: Path
) -> None:
    run([checkout / ".uv/bin/uv", "pip", "uninstall", "-q", "-p", environment, "trition-repo-gen"])
    http, grpc, metrics = free_ports(3)
    site = environment / "lib/python3.12/site-packages"
    server = site / "pytriton/tritonserver"
    backend = tmp_path / "backends/python"
    backend.mkdir(parents=True)
    for source in (*(server / "backends/python").glob("*.*"), *(server / "python_backend_stubs/3.12").iterdir()):
        shutil.copyfile(source, backend / source.name)
        (backend / source.name).chmod(0o755)
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    mark = "plain-tritonserver"
    process = subprocess.Popen(
        [
            *(
                server / "bin/tritonserver",
                "--model-repository",
                repository,
                "--backend-directory",
                tmp_path / "backends",
            ),
            *("--http-address", "127.0.0.1", "--http-port", str(http), "--grpc-address", "127.0.0.1"),
            *("--grpc-port", str(grpc), "--metrics-address", "127.0.0.1", "--metrics-port", str(metrics)),
        ],
        env={
            **os.environ,
            MARK: mark,
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": libraries,
        },
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until_ready(process, f"127.0.0.1:{http}", tmp_path / "log")
        reply = Asker(f"127.0.0.1:{http}", "tiny")(PROMPTS[0])
        assert reply.sentences[0].strip().startswith("Yellow")
    finally:
        process.terminate()
        process.wait()
        left = end_marked(mark)
    assert not left


def fetch(url: str, body: object = None) -> str:
    """Return what a GET answers, or with a body a POST of it as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        text: str = response.read().decode()
    return text


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Poll Triton's readiness, which is all that a user of another machine sees; the process's end is an event."""
    client = tritonclient.http.InferenceServerClient(url)
    for _ in range(int(READY_SECONDS / 0.2)):
        try:
            if client.is_server_ready():
                return
        except (OSError, InferenceServerException):
            pass
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(log.read_text()[-3000:])
    pytest.fail(f"not ready after {READY_SECONDS} s: {log.read_text()[-3000:]}")
