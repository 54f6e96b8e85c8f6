"""Finds the tritonserver to start."""

import importlib.metadata
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.errors import ServerError, system_errors
from trition_repo_gen.paths import expanded

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
"""The path of tritonserver in NGC's containers."""

WHEEL = "nvidia-pytriton"
_WHEEL_SERVER = "pytriton/tritonserver/bin/tritonserver"


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver on this machine."""

    path: Path
    """The absolute path of the program."""
    source: str
    """How it was found, for messages, such as `--tritonserver` or `PATH`."""
    from_wheel: bool
    """Whether it is the build inside the nvidia-pytriton wheel, which needs preparation."""


def find_tritonserver(flag: str | None = None, environment: Mapping[str, str] | None = None) -> TritonServer:
    """Return the tritonserver to start.

    It is the first that exists of: the flag's, the one of `$TRITONSERVER`, PATH's, the container's, the wheel's.

    Args:
        flag: the value of `--tritonserver`, if given.
        environment: the process environment; by default `os.environ`.

    Raises:
        ServerError: the flag or the variable does not name a program, or no tritonserver was found.
    """
    environment = os.environ if environment is None else environment
    if flag:
        return _named(flag, "--tritonserver")
    if variable := environment.get("TRITONSERVER"):
        return _named(variable, "the environment variable TRITONSERVER")
    if on_path := shutil.which("tritonserver", path=environment.get("PATH", os.defpath)):
        return _found(Path(on_path), "PATH")
    if os.access(CONTAINER_SERVER, os.X_OK):
        return _found(CONTAINER_SERVER, str(CONTAINER_SERVER.parent))
    if (carried := wheel_server()) is not None:
        return _found(carried, f"the {WHEEL} wheel")
    raise ServerError(
        "No tritonserver was found; install one with pip install 'trition-repo-gen[triton]', "
        "or run in NVIDIA's tritonserver container."
    )


def wheel_server() -> Path | None:
    """Return the path of tritonserver inside the installed wheel, or None. The wheel is not imported."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(_WHEEL_SERVER)))
    return path if path.is_file() else None


def _named(value: str, source: str) -> TritonServer:
    path = expanded(value)
    with system_errors(
        ServerError,
        f"{source} is {value!r}, which cannot be read",
        "grant this user access, or write another path there",
    ):
        is_file = path.is_file()
    if not is_file:
        raise ServerError(
            f"{source} is {value!r}, which is not a file; write the path of the program tritonserver there."
        )
    server = _found(path, source)
    if not server.from_wheel and not os.access(path, os.X_OK):
        raise ServerError(
            f"{source} is {value!r}, which is not executable; write the path of the program tritonserver there."
        )
    return server


def _found(path: Path, source: str) -> TritonServer:
    # abspath, not resolve: the path may be a link to a wrapper, which has to be started under its own name.
    path = Path(os.path.abspath(path))  # noqa: PTH100
    return TritonServer(path, source, path.as_posix().endswith("/" + _WHEEL_SERVER))
