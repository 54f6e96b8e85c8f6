"""What tritonserver's Python backend needs."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trition_repo_gen.errors import ServerError
from trition_repo_gen.server.find import TritonServer, wheel_server
from trition_repo_gen.server.prepare import Launch, prepare

PYTHON = """#!/bin/sh
echo '{{"executable": "{self}", "version": "{version}", "numpy": "{numpy}", "missing": [{missing}],
"library_folders": ["{libraries}"]}}'
"""


@pytest.fixture
def stock() -> TritonServer:
    """The tritonserver of the installed wheel."""
    path = wheel_server()
    assert path is not None
    return TritonServer(path, "the wheel", True)


class Environment:
    """A virtual environment's files, with a wheel, and a Python that says what it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.site = root / "lib" / "python" / "site-packages"
        self.triton = self.site / "pytriton" / "tritonserver"
        self.server = self._write(self.triton / "bin" / "tritonserver")
        self.backend = self._write(self.triton / "backends" / "python" / "libtriton_python.so")
        self.stub = self._write(self.triton / "python_backend_stubs" / "3.12" / "triton_python_backend_stub")
        self.libpython = self._write(root / "base" / "libpython3.12.so.1.0")
        (self.site / "nvidia_pytriton.libs").mkdir()
        self.python()

    def python(self, version: str = "3.12", numpy: str = "1.26.4", missing: str = "") -> None:
        program = self._write(self.root / "bin" / "python3")
        text = PYTHON.format(
            self=program, version=version, numpy=numpy, missing=missing, libraries=self.libpython.parent
        )
        program.write_text(text)
        program.chmod(0o755)

    def prepare(self) -> Launch:
        variables = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(self.root / "cache"), "LD_LIBRARY_PATH": "/theirs"}
        return prepare(TritonServer(self.server, "a test", True), variables)

    def _write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def backend_directory(launch: Launch) -> Path:
    name, folder = launch.arguments
    assert name == "--backend-directory"
    return Path(folder)


def test_the_stub_and_its_library_come_into_one_folder(environment: Environment) -> None:
    launch = environment.prepare()
    folder = backend_directory(launch) / "python"
    assert folder.is_relative_to(environment.root / "cache" / "trgen")
    assert (folder / "libtriton_python.so").samefile(environment.backend)
    assert os.access(folder / "triton_python_backend_stub", os.X_OK)


def test_the_environment_leads_the_stub_to_its_python(environment: Environment) -> None:
    variables = environment.prepare().environment
    assert variables["PATH"] == f"{environment.root}/bin:/usr/bin:/bin"
    libraries, own, theirs = variables["LD_LIBRARY_PATH"].split(":")
    assert Path(libraries) == environment.site / "nvidia_pytriton.libs"
    assert [path.name for path in Path(own).iterdir()] == ["libpython3.12.so.1.0"]
    assert theirs == "/theirs"
    assert variables["TRGEN_ORIGINAL_PATH"] == "/usr/bin:/bin"
    assert variables["TRGEN_ORIGINAL_LD_LIBRARY_PATH"] == "/theirs"


def test_the_folder_is_made_once_and_again_when_the_wheel_changes(environment: Environment) -> None:
    first = backend_directory(environment.prepare())
    assert backend_directory(environment.prepare()) == first
    os.utime(environment.stub, (1, 1))
    second = backend_directory(environment.prepare())
    assert second != first
    (second / "python" / "libtriton_python.so").unlink()
    (second / "python" / "libtriton_python.so").symlink_to("/nowhere")
    assert backend_directory(environment.prepare()) == second
    assert (second / "python" / "libtriton_python.so").exists()


def test_servers_may_start_side_by_side(environment: Environment) -> None:
    with ThreadPoolExecutor(8) as pool:
        launches = list(pool.map(lambda _: environment.prepare(), range(8)))
    assert len({launch.arguments for launch in launches}) == 1
    cache = environment.root / "cache" / "trgen"
    assert [path.name for path in cache.iterdir()] == [backend_directory(launches[0]).parent.name]


def test_a_cache_that_cannot_be_written(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(environment.root))
    (environment.root / "cache").touch()
    folder = backend_directory(environment.prepare()) / "python"
    assert folder.is_relative_to(environment.root)
    assert (folder / "triton_python_backend_stub").exists()


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ({"numpy": "2.1.0"}, "has numpy 2.1.0, and tritonserver's Python backend needs one below 2; install"),
        ({"missing": '"zmq", "msgpack"'}, "lacks pyzmq msgpack; install with .* -m pip install pyzmq msgpack"),
        ({"version": "3.99"}, "is Python 3.99, for which .* has no Python backend; use Python 3.12"),
    ],
)
def test_a_python_that_cannot_do(environment: Environment, python: dict[str, str], sentence: str) -> None:
    environment.python(**python)
    with pytest.raises(ServerError, match=sentence):
        environment.prepare()


def test_a_python_without_a_shared_library(environment: Environment) -> None:
    environment.libpython.unlink()
    with pytest.raises(ServerError, match=r"has no libpython3\.12\.so\.1\.0, which .* needs; use a Python with"):
        environment.prepare()


def test_a_wheel_that_carries_the_library(environment: Environment) -> None:
    environment.libpython.unlink()
    (environment.site / "nvidia_pytriton.libs" / "libpython3-0.12.so.1.0").touch()
    own = Path(environment.prepare().environment["LD_LIBRARY_PATH"].split(":")[1])
    assert list(own.iterdir()) == []


def test_a_python_that_does_not_run(environment: Environment) -> None:
    (environment.root / "bin" / "python3").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(ServerError, match="does not run: broken"):
        environment.prepare()


def test_the_real_wheel_with_this_python(stock: TritonServer, tmp_path: Path) -> None:
    variables = dict(os.environ, XDG_CACHE_HOME=str(tmp_path), PYTHONHOME="/nowhere", PYTHONPATH="/theirs")
    launch = prepare(stock, variables)
    folder = backend_directory(launch) / "python"
    assert {"libtriton_python.so", "triton_python_backend_stub"} <= {path.name for path in folder.iterdir()}
    assert Path(launch.environment["PATH"].split(":")[0]) / "python3" == Path(sys.prefix) / "bin" / "python3"
    assert "PYTHONHOME" not in launch.environment
    assert launch.environment["PYTHONPATH"] == "/theirs"  # the stub does not read it, the ranks may need it


def test_a_containers_server_needs_no_preparation(environment: Environment) -> None:
    environment.python(numpy="2.3.0")
    variables = {"PATH": f"{environment.root}/bin:/usr/bin:/bin"}
    launch = prepare(TritonServer(Path("/opt/tritonserver/bin/tritonserver"), "a test", False), variables)
    assert launch == Launch((), variables)


def test_a_containers_python_without_packages(environment: Environment) -> None:
    environment.python(missing='"zmq"')
    variables = {"PATH": f"{environment.root}/bin:/usr/bin:/bin"}
    with pytest.raises(ServerError, match="lacks pyzmq; install with"):
        prepare(TritonServer(Path("/opt/tritonserver/bin/tritonserver"), "a test", False), variables)
    with pytest.raises(ServerError, match="needs python3, which was not found"):
        prepare(TritonServer(Path("/opt/tritonserver/bin/tritonserver"), "a test", False), {"PATH": "/nonexistent"})
