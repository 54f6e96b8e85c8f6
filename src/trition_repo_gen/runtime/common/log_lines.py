"""The lines that a model writes into tritonserver's log: `[trgen NAME] text`. Standard library only."""

import re
import sys

MARK = "[trgen "
"""What such a line begins with."""

_LINE = re.compile(r"\[trgen (?P<model>[^\]]+)\] (?P<text>.+)")


def write(model: str, text: str) -> None:
    """Write a line."""
    print(f"{MARK}{model}] {text}", file=sys.stderr, flush=True)


def parse(line: str) -> tuple[str, str] | None:
    """Return a line's model and text; None where it is another's."""
    found = _LINE.match(line)
    return (found["model"], found["text"]) if found else None
