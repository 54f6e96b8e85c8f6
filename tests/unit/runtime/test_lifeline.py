import os
import signal
import subprocess
import sys
import textwrap

CHILD = """
import os, sys
from trition_repo_gen.runtime.lifeline import die_with_parent
die_with_parent()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _spawn(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    descriptor = os.pidfd_open(int(parent.stdout.readline()))

    parent.kill()
    parent.wait()

    _wait_for_end(descriptor)


def test_a_child_whose_parent_is_gone_already_ends_itself() -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD], env=os.environ | {"TRGEN_PARENT_PID": "1"}, stdin=subprocess.DEVNULL, check=False
    )

    assert child.returncode == -signal.SIGKILL


def _spawn(child: str) -> str:
    return textwrap.dedent(f"""
        import os, subprocess, sys
        os.environ["TRGEN_PARENT_PID"] = str(os.getpid())
        subprocess.Popen([sys.executable, "-c", {child!r}]).wait()
    """)


def _wait_for_end(descriptor: int) -> None:
    import select

    readable, _, _ = select.select([descriptor], [], [], 10)
    os.close(descriptor)
    assert readable, "the child outlived its parent by ten seconds"
