"""Which Python runs the ranks, and whether it can load a kind of checkpoint: looked up, nothing heavy is imported."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass

from trition_repo_gen.checkpoints import Checkpoint
from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository.options import BuildOptions

_DEFAULT = "python3"
_SECONDS = 60.0
"""For a Python whose packages lie on a slow disk."""
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


@dataclass(frozen=True)
class _Need:
    packages: tuple[str, ...]
    install: str
    """Command that makes such an environment."""
    below: tuple[str, int] | None = None
    """A package, and the first major version that does not do any more."""


_NEEDS = {
    "megatron_bridge": _Need(
        ("megatron-bridge", "megatron-core", "torch"), "trgen environment FOLDER (on a GPU machine, with --gpu)"
    ),
    "nemo2": _Need(
        ("nemo-toolkit", "megatron-core", "torch", "transformers", "pillow"),
        "trgen environment --nemo FOLDER",
        ("nemo-toolkit", 3),
    ),
}


def choose(options: BuildOptions, checkpoint: Checkpoint) -> str:
    """Return the ranks' Python: the flag's, the environment's, or `python3`."""
    names = ["TRGEN_RANK_PYTHON"]
    if checkpoint.kind == "nemo2":
        names.insert(0, "TRGEN_NEMO_PYTHON")
    given = options.rank_python or next(filter(None, map(os.environ.get, names)), _DEFAULT)
    # A relative path would be taken from tritonserver's folder. Symbolic links stay: they mark a virtual environment.
    return str(expanded(given).absolute()) if "/" in given else given


def check(python: str, checkpoint: Checkpoint) -> list[str]:
    """Return a sentence where the Python cannot be looked at from here, or is the default and lacks something.

    Raises:
        RepositoryError: it was chosen, is on this machine, and cannot load this kind of checkpoint.
    """
    if shutil.which(python) is None:
        return [
            f"The ranks' Python, {python}, is not on this machine; the machine that serves needs it "
            "(--rank-python, or RANK_PYTHON in config.pbtxt)."
        ]
    need = _NEEDS[checkpoint.kind]
    try:
        probe = [python, "-c", _PROBE, *need.packages]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=_SECONDS, check=True)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise RepositoryError(
            f"{python} did not say within {_SECONDS:g} s what packages it has; try again, or write another one as "
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
        f"make one that can with {need.install}, or name another one with --rank-python"
    )
    if python == _DEFAULT:
        return [f"{sentence}, or RANK_PYTHON in config.pbtxt."]
    raise RepositoryError(f"{sentence}.")


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0
