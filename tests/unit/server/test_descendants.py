"""Processes are found by their mark, and ended."""

import os
import subprocess
import sys
import uuid

import pytest

from trition_repo_gen.server.descendants import MARK, end_marked, marked_processes, wait_for

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
# Its child is reparented, in a session of its own.
LEAVES_A_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
"""


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def run(script: str, mark: str) -> None:
    subprocess.run([sys.executable, "-c", script], env=os.environ | {MARK: mark}, check=True)


def test_an_orphan_that_ignores_sigterm_is_ended(mark: str) -> None:
    run(LEAVES_A_CHILD, mark)
    assert len(marked_processes(mark)) == 1
    assert end_marked(mark, step_seconds=0.2) == []
    assert marked_processes(mark) == []


def test_only_the_marked_ones_are_ended(mark: str) -> None:
    other = uuid.uuid4().hex
    run(LEAVES_A_CHILD, mark)
    run(LEAVES_A_CHILD, other)
    end_marked(mark, step_seconds=0.2)
    assert len(marked_processes(other)) == 1
    end_marked(other, step_seconds=0.2)


def test_a_zombie_has_no_mark(mark: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], env=os.environ | {MARK: mark})
    handle = os.pidfd_open(child.pid)
    assert wait_for([handle], 60) == [handle]
    os.close(handle)
    assert marked_processes(mark) == []
    child.wait()


def test_nothing_to_end(mark: str) -> None:
    assert end_marked(mark) == []


def test_waiting_ends_after_a_while() -> None:
    reader, writer = os.pipe()
    assert wait_for([reader], 0.01) == []
    os.write(writer, b"x")
    assert wait_for([reader], None) == [reader]
    os.close(reader)
    os.close(writer)
