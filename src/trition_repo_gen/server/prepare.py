"""Prepares what tritonserver's Python backend needs: its directory, its interpreter's packages, its environment.

In a container, tritonserver and its backend are installed together. In the wheel, the stub (the program that runs
model.py) and the backend's library are in different directories and have to be put into one, and both need libraries
from directories that the loader does not search. The stub embeds the first Python on PATH and uses its packages.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.errors import ServerError
from trition_repo_gen.paths import expanded

from .find import TritonServer

ORIGINAL = "TRGEN_ORIGINAL_"
"""Prefix of variables with the original values of PATH and LD_LIBRARY_PATH, which are changed for the stub. The ranks
run another Python, for which the launcher restores them."""

_PACKAGES = {"numpy": "numpy", "zmq": "pyzmq", "msgpack": "msgpack"}
"""Modules that the stub's part of the runtime imports, and the names of their packages."""

_PROBE = """
import importlib.metadata, importlib.util, json, os, sys, sysconfig
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
get = sysconfig.get_config_var
print(json.dumps({
    "executable": sys.executable,
    "version": "%d.%d" % sys.version_info[:2],
    "numpy": version("numpy"),
    "missing": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None],
    "library_folders": [os.path.join(sys.base_exec_prefix, "lib"), get("LIBDIR") or "",
                        os.path.join(get("LIBDIR") or "", get("MULTIARCH") or "")],
}))
"""


@dataclass(frozen=True)
class Launch:
    """How to start tritonserver on this machine."""

    arguments: tuple[str, ...]
    """Options for tritonserver's command line."""
    environment: dict[str, str]
    """The complete environment of tritonserver."""


@dataclass(frozen=True)
class _Interpreter:
    """The Python that the stub embeds."""

    executable: str
    version: str
    numpy: str
    missing: tuple[str, ...]
    library_folders: tuple[Path, ...]


def prepare(server: TritonServer, environment: Mapping[str, str] | None = None) -> Launch:
    """Prepare the stub of `server` for the runtime's model.py, and return how to start the server.

    Raises:
        ServerError: the stub's Python lacks a package or a shared library, or its NumPy is too new for the stub.
    """
    launch = dict(os.environ if environment is None else environment)
    # PYTHONHOME of another Python breaks the one that the stub embeds. The stub ignores PYTHONPATH; ranks may use it.
    launch.pop("PYTHONHOME", None)
    if not server.from_wheel:
        _check_packages(_probe("python3", launch))
        return Launch((), launch)

    root = server.path.parent.parent
    site = root.parent.parent
    python = site.parents[2] / "bin" / "python3"
    if not python.is_file():  # the wheel is not in a virtual environment
        python = Path(sys.executable)
    interpreter = _probe(str(python), launch)
    _check_packages(interpreter)
    if interpreter.numpy.split(".")[0] != "1":
        raise ServerError(
            f"{interpreter.executable} has numpy {interpreter.numpy}, and tritonserver's Python backend needs one "
            "below 2; install it there with pip install 'numpy<2'."
        )
    libraries = site / "nvidia_pytriton.libs"
    folder = _backend_folder(root, libraries, interpreter, launch)
    added = {"PATH": [str(python.parent)], "LD_LIBRARY_PATH": [str(libraries), str(folder / "lib")]}
    for name, folders in added.items():
        launch[ORIGINAL + name] = launch.get(name, "")
        launch[name] = os.pathsep.join(filter(None, [*folders, launch.get(name, os.defpath if name == "PATH" else "")]))
    return Launch(("--backend-directory", str(folder / "backends")), launch)


def _probe(python: str, environment: Mapping[str, str]) -> _Interpreter:
    """Return what the interpreter reports about itself. It runs with -E because the stub ignores PYTHON*, too."""
    program = shutil.which(python, path=environment.get("PATH", os.defpath))
    if program is None:
        raise ServerError(f"tritonserver's Python backend needs {python}, which was not found; install Python there.")
    answer = subprocess.run([program, "-E", "-c", _PROBE, *_PACKAGES], capture_output=True, text=True, env=environment)
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ServerError(f"{program}, which tritonserver's Python backend uses, does not run: {reason}")
    found = json.loads(answer.stdout)
    return _Interpreter(
        executable=found["executable"],
        version=found["version"],
        numpy=found["numpy"],
        missing=tuple(found["missing"]),
        library_folders=tuple(Path(folder) for folder in found["library_folders"] if folder),
    )


def _check_packages(interpreter: _Interpreter) -> None:
    if interpreter.missing:
        names = " ".join(_PACKAGES[name] for name in interpreter.missing)
        raise ServerError(
            f"{interpreter.executable}, which tritonserver's Python backend uses, lacks {names}; "
            f"install with {interpreter.executable} -m pip install {names}."
        )


def _backend_folder(root: Path, libraries: Path, interpreter: _Interpreter, environment: Mapping[str, str]) -> Path:
    """Return a folder with `backends/python` and `lib`, which is cached for each wheel and interpreter.

    It contains links into the wheel. It is created under a temporary name and renamed, so that several servers can
    start at the same time.
    """
    version = interpreter.version
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerError(
            f"{interpreter.executable} is Python {version}, for which {root} has no Python backend; use Python 3.12."
        )
    backend = sorted((root / "backends" / "python").iterdir())
    libpython = _libpython(interpreter, libraries)
    sources = [*backend, stub, *libpython]
    key = hashlib.sha256("\n".join(f"{path} {path.stat().st_mtime_ns}" for path in sources).encode()).hexdigest()[:16]

    cache = _cache(environment)
    folder = cache / f"triton-py{version}-{key}"
    if folder.is_dir() and all(path.exists() for path in folder.rglob("*")):
        return folder
    making = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    (making / "backends" / "python").mkdir(parents=True)
    (making / "lib").mkdir()
    for path in [*backend, stub]:
        target = making / "backends" / "python" / path.name
        if path == stub and not os.access(stub, os.X_OK):
            shutil.copyfile(stub, target)
            target.chmod(0o755)
        else:
            target.symlink_to(path)
    for path in libpython:
        (making / "lib" / path.name).symlink_to(path)
    if folder.exists():  # it links to files that no longer exist
        shutil.rmtree(folder, ignore_errors=True)
    try:
        making.rename(folder)
    except OSError:  # another server has just created the same folder
        shutil.rmtree(making)
    return folder


def _libpython(interpreter: _Interpreter, libraries: Path) -> list[Path]:
    """Return the Python library that the stub links to, as a list; empty if the wheel contains it.

    The loader's path gets a link to this file alone, not its whole folder: the ranks' Python inherits LD_LIBRARY_PATH.
    """
    minor = interpreter.version.split(".")[1]
    if any(libraries.glob(f"libpython3-*.{minor}.so*")):
        return []
    name = f"libpython{interpreter.version}.so.1.0"
    for folder in interpreter.library_folders:
        if (folder / name).is_file():
            return [folder / name]
    raise ServerError(
        f"{interpreter.executable} has no {name}, which tritonserver's Python backend needs; "
        "use a Python with a shared library, such as uv's or one built with --enable-shared."
    )


def _cache(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CACHE_HOME") or expanded(environment.get("HOME") or "~") / ".cache"
    cache = Path(base) / "trgen"
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        # A read-only home. Any user can create a folder with this name, hence the check of its owner.
        cache = Path(tempfile.gettempdir()) / f"trgen-{os.getuid()}"
        cache.mkdir(mode=0o700, exist_ok=True)
        if cache.stat().st_uid != os.getuid():
            return Path(tempfile.mkdtemp(prefix="trgen-"))
    return cache
