import io
import threading

from trition_repo_gen.cli._progress import progress


class Terminal(io.StringIO):
    """A terminal that tells when something is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if "asking" in self.getvalue():
            self.shown.set()
        return written


def test_what_takes_long_is_said_on_a_terminal() -> None:
    terminal = Terminal()
    with progress(terminal, seconds=0.0) as report:
        report("asking")
        assert terminal.shown.wait(60)


def test_what_does_not_is_not() -> None:
    terminal = Terminal()
    with progress(terminal, seconds=3600.0) as report:
        report("asking")
    assert terminal.getvalue() == ""


def test_a_pipe_is_left_alone() -> None:
    pipe = io.StringIO()
    with progress(pipe, seconds=0.0) as report:
        report("asking")
    assert pipe.getvalue() == ""
