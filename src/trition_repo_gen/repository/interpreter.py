"""Choose the Python that runs the ranks, and check that it has the packages to load the checkpoint."""

import json
import os
import shutil
import subprocess

from trition_repo_gen.checkpoints import KINDS, Checkpoint
from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository.options import BuildOptions

_DEFAULT = "python3"
_SECONDS = 60.0
"""Limit for listing packages, which may lie on a slow disk."""
_PROBE = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def choose(options: BuildOptions, checkpoint: Checkpoint) -> str:
    """Return the ranks' Python: the flag's, the environment's, or `python3`."""
    names = [KINDS[checkpoint.kind].environment.python_variable, "TRGEN_RANK_PYTHON"]
    given = options.rank_python or next(filter(None, (os.environ.get(name) for name in names if name)), _DEFAULT)
    # tritonserver would resolve a relative path in its own folder. Symbolic links are kept: a virtual environment's
    # Python is one.
    return str(expanded(given).absolute()) if "/" in given else given


def check(python: str, checkpoint: Checkpoint) -> list[str]:
    """Return a note where the Python is on another machine, or is the default and lacks a package.

    Nothing heavy is imported: its installed distributions are listed.

    Raises:
        RepositoryError: the user chose it, it is on this machine, and cannot load this kind of checkpoint.
    """
    if shutil.which(python) is None:
        return [
            f"The ranks' Python, {python}, is not on this machine; the machine that serves needs it "
            "(--rank-python, or RANK_PYTHON in config.pbtxt)."
        ]
    need = KINDS[checkpoint.kind].environment
    try:
        probe = [python, "-c", _PROBE, *need.packages]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=_SECONDS, check=True)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise RepositoryError(
            f"{python} did not list its packages within {_SECONDS:g} s; try again, or write another one as "
            "--rank-python."
        ) from None
    except (OSError, ValueError, subprocess.SubprocessError):
        raise RepositoryError(f"{python} does not run as a Python; write another one as --rank-python.") from None
    missing = [name for name in need.packages if name not in found]
    if not missing and need.below and _major(found[need.below[0]]) >= need.below[1]:
        name, major = need.below
        missing = [f"{name} {major - 1} (it has {found[name]})"]
    if not missing:
        return []
    sentence = (
        f"The ranks' Python, {python}, has no {missing[0]}, so it cannot load this checkpoint: "
        f"install {need.lock} there with scripts/install-environment, or name another one with --rank-python"
    )
    if python == _DEFAULT:
        return [f"{sentence}, or RANK_PYTHON in config.pbtxt."]
    raise RepositoryError(f"{sentence}.")


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0
