"""The wheel outside the checkout, and a repository on a machine that has never seen trgen."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import PROMPTS, READY_SECONDS, Asker, run
from trition_repo_gen.server import free_ports
from trition_repo_gen.server.descendants import MARK, end_marked


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """A fresh virtual environment with the built wheel, its `triton` extra and nothing else."""
    folder = tmp_path_factory.mktemp("fresh")
    python = checkout / ".venv/bin/python"
    run([python, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"], cwd=checkout)
    (wheel,) = (folder / "dist").glob("*.whl")
    uv = checkout / ".uv/bin/uv"
    run([uv, "venv", "-q", "-p", python, folder / "venv"])
    requirement = f"trition-repo-gen[triton] @ {wheel.as_uri()}"
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


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait until tritonserver answers; the process's end is noticed as well."""
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
