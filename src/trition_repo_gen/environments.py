"""Installs the ranks' Python environments from the lock files that trgen carries."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trition_repo_gen.errors import InstallError, system_errors
from trition_repo_gen.paths import carried_folder

PYTHON_VERSION = (3, 12)
"""The Python that the locks are resolved for (`make lock`)."""

_VERSION = "import sys; print(*sys.version_info[:2], sys.executable)"
_VENV_MARK = "pyvenv.cfg"


def lock_file(*, gpu: bool = False, nemo: bool = False) -> Path:
    """Return the lock file of an environment. NeMo's serves with and without a GPU."""
    name = "nemo" if nemo else "megatron-gpu" if gpu else "megatron"
    return carried_folder("locks") / f"{name}.txt"


def extension_script() -> Path:
    """Return the script that compiles Transformer Engine's extension into an environment with a GPU."""
    return carried_folder("scripts") / "install-transformer-engine-extension"


def find_uv() -> str | None:
    """Return the path of uv, on PATH or in the environment that runs this; None where there is none."""
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else None)


def install(
    folder: Path,
    lock: Path,
    *,
    python: str = sys.executable,
    force: bool = False,
    uv: str | None = None,
    options: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Path:
    """Make a virtual environment that holds exactly what a lock file lists; return its Python.

    uv and pip show on standard error and standard output how far they are.

    Args:
        folder: where the environment will be.
        lock: requirements with hashes.
        python: the Python that the environment is made of.
        force: whether a virtual environment that is there may be replaced.
        uv: path of uv; None uses pip.
        options: more options of `uv pip` or `pip`, such as `--no-index`.
        report: takes each step, in words, when it begins.

    Raises:
        InstallError: the folder is in use, the Python is another version, or a package cannot be installed.
    """
    folder = folder.absolute()
    base = _base_python(python)
    _require_free(folder, force)
    # Without bytecode every start of a rank compiles Megatron again, which takes a minute.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    report(f"{lock.name} into {folder}, with {'uv' if uv else 'pip'}")
    made = folder / "bin/python"
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", base, str(folder)],
            [uv, "pip", "sync", "--python", str(folder), "--require-hashes", "--compile-bytecode", *options, str(lock)],
        ]
    else:
        pip = [str(made), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        commands = [[base, "-m", "venv", "--clear", str(folder)], [*pip, *options, "-r", str(lock)]]
    for command in commands:
        with system_errors(InstallError, f"{command[0]} cannot be started", "write another --python"):
            code = subprocess.run(command, env=environment, check=False).returncode
        if code:
            raise InstallError(
                f"{Path(command[0]).name} ended with exit code {code}, so {folder} is not complete; correct what it "
                "said above, and run the same command with --force."
            )
    return made


def _require_free(folder: Path, force: bool) -> None:
    instead = "write another folder, or grant this user access"
    with system_errors(InstallError, f"{folder} cannot be read", instead):
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        is_environment = (folder / _VENV_MARK).is_file()
    if not is_environment:
        raise InstallError(f"{folder} has other files; write a folder that is empty or does not exist.")
    if not force:
        raise InstallError(
            f"{folder} is a virtual environment already; write --force to replace it, or another folder."
        )


def _base_python(python: str) -> str:
    """Return the path of a Python, checked to be of the locks' version."""
    wanted = ".".join(map(str, PYTHON_VERSION))
    instead = f"write --python with the path of a Python {wanted}"
    try:
        found = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=True).stdout
        major, minor, path = found.rstrip("\n").split(" ", 2)
    except (OSError, ValueError, subprocess.SubprocessError):
        raise InstallError(f"{python} does not run as a Python; {instead}.") from None
    if (int(major), int(minor)) != PYTHON_VERSION:
        raise InstallError(f"{python} is Python {major}.{minor}, and the locks are for {wanted}; {instead}.")
    return path
