import os
import signal
import subprocess
import sys
import textwrap

import pytest

CHILD = """
import os, sys
from trition_repo_gen.runtime.common.parent_death import die_with_parent
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


GUARDED = """
import os, sys, time
from trition_repo_gen.runtime.common.parent_death import Guardian
guardian = Guardian(int(sys.argv[1]))
print(guardian._process.pid, flush=True)
sys.stdin.readline()
if sys.argv[2] == "stay":
    time.sleep(600)
if sys.argv[2] == "dismiss":
    guardian.dismiss()
"""


def test_a_guardian_kills_its_process_with_another() -> None:
    awaited = subprocess.Popen(["sleep", "600"])
    guarded, guardian = _guarded(awaited.pid, "stay")

    awaited.kill()

    assert guarded.wait(10) == -signal.SIGKILL  # while the other is a zombie that nobody has reaped
    _wait_for_end(guardian)
    awaited.wait()


@pytest.mark.parametrize("how", ["end", "dismiss"])
def test_a_guardian_ends_with_its_process(how: str) -> None:
    guarded, guardian = _guarded(os.getpid(), how)

    _wait_for_end(guardian)

    assert guarded.wait(10) == 0


def _guarded(awaited: int, how: str) -> tuple["subprocess.Popen[str]", int]:
    """Start a process that has a guardian; return it and the guardian's process descriptor."""
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED, str(awaited), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    descriptor = os.pidfd_open(int(process.stdout.readline()))
    process.stdin.close()
    return process, descriptor


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
