"""The help of every command, on a terminal and in a pipe."""

import os
import pty
import re
import subprocess
import sys

import pytest

FIRST_LINES = {
    "": [
        "Usage: trgen [OPTIONS] COMMAND [ARGS]...",
        "Write a Triton model repository for a Megatron checkpoint, and serve it with stock tritonserver.",
    ],
    "build": [
        "Usage: trgen build --model-name NAME [OPTIONS] [CHECKPOINT]",
        "Write a Triton model repository for a Megatron-Bridge or a NeMo 2.0 multimodal checkpoint.",
    ],
    "serve": [
        "Usage: trgen serve [OPTIONS] [-- OPTIONS]...",
        "Start stock tritonserver on a model repository, and the REST service beside it.",
    ],
    "deploy": [
        "Usage: trgen deploy --model-name NAME [OPTIONS] [CHECKPOINT] [-- OPTIONS]...",
        "Write a Triton model repository for a checkpoint, then serve it: trgen build and trgen serve in one.",
    ],
    "rest": [
        "Usage: trgen rest [OPTIONS]",
        "Start the OpenAI-compatible REST service, and its page, in front of a Triton that runs already.",
    ],
    "query": [
        "Usage: trgen query --model-name TEXT [OPTIONS]",
        "Send a prompt to a served model and print the answer.",
    ],
    "environment": [
        "Usage: trgen environment [OPTIONS] {FOLDER}",
        "Install the ranks' Python environment from the versions that trgen is tested with.",
    ],
}
PANELS = {
    "": ["Commands", "Options"],
    "build": [
        *("Checkpoint", "Output", "Layout", "Engine", "Memory", "Images (multimodal models)", "Queue", "Ranks"),
        "Options",
    ],
    "serve": ["tritonserver", "REST service", "Options"],
    "deploy": [
        *("Checkpoint", "Output", "Layout", "Engine", "Memory", "Images (multimodal models)", "Queue", "Ranks"),
        *("tritonserver", "REST service", "Options"),
    ],
    "rest": ["REST service", "Options"],
    "environment": ["Options"],
}
_PROGRAM = "import sys; from trition_repo_gen.cli import main; sys.argv[0] = 'trgen'; main()"
_RICH = "import atexit, sys; atexit.register(lambda: print('rich' in sys.modules, file=sys.stderr)); "


def trgen_help(command: str, columns: int = 120) -> str:
    """Return the help as a pipe gets it."""
    words = [command] if command else []
    environment = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run(
        [sys.executable, "-c", _RICH + _PROGRAM, *words, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "False\n", "Rich is not for a pipe"
    return done.stdout


def on_terminal(*words: str, columns: int = 80, term: str = "xterm") -> str:
    """Return what a command writes to a terminal, without colors."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": term}
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        written = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the last writer has closed the terminal
                break
            if not chunk:
                break
            written += chunk
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("command", FIRST_LINES)
def test_first_lines(command: str) -> None:
    usage, empty, text = trgen_help(command).splitlines()[:3]
    assert [usage, empty, text.strip()] == [FIRST_LINES[command][0], "", FIRST_LINES[command][1]]


@pytest.mark.parametrize("command", PANELS)
def test_panels(command: str) -> None:
    titles = [line[:-1] for line in trgen_help(command).splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles == PANELS[command]


def test_required_options_come_first() -> None:
    lines = trgen_help("build").splitlines()
    first = lines[lines.index("Checkpoint:") + 1 :][:4]
    assert first[0].split()[0] == "CHECKPOINT"
    assert "--model-name NAME" in " ".join(first)


def test_defaults_in_words_have_no_parentheses() -> None:
    assert "[default: what the layout needs]" in trgen_help("build")
    assert "[default: (" not in trgen_help("deploy")


def test_metavars_have_one_style() -> None:
    names = re.findall(r"^  [^ ].*?--[\w-]+ (\S+)(?:$|  )", trgen_help("deploy"), flags=re.MULTILINE)
    assert names
    choices = {"auto|on|off", "float16|bfloat16|float32"}
    assert not [name for name in names if not re.fullmatch(r"[A-Z:|]+|FILE\.yaml|/", name) and name not in choices]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_name_is_cut_on_a_terminal(columns: int) -> None:
    plain = trgen_help("deploy")
    drawn = on_terminal("deploy", "--help", columns=columns)
    assert "╭─ Checkpoint ─" in drawn
    for name in re.findall(r"--[a-z][\w-]+", plain):
        assert re.search(rf"{name}(?![\w-])", drawn), name
    assert max(map(len, drawn.splitlines())) <= columns


def test_a_dumb_terminal_gets_plain_text() -> None:
    assert "\nCheckpoint:\n" in on_terminal("build", "--help", term="dumb")


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        ("trgen bu", ["build"]),
        ("trgen build --tensor", ["--tensor-parallel-size"]),
        ("trgen build --params-dtype b", ["bfloat16"]),
    ],
)
def test_completion(words: str, candidates: list[str]) -> None:
    environment = {
        **os.environ,
        "_TRGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == candidates
