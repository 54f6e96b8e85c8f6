import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["demo", "demo_multimodal"])
def test_the_help_of_a_demonstration_runs_nothing(name: str, checkout: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRGEN_")}
    command: list[str | Path] = [sys.executable, checkout / f"examples/{name}.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py")
    refused = subprocess.run([*command[:-1], "--yes"], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
