"""The flags of `trgen serve`, and what `trgen deploy` makes of both commands'."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trition_repo_gen import server
from trition_repo_gen.cli import app
from trition_repo_gen.cli.serve import ServeFlags
from trition_repo_gen.errors import ServerError
from trition_repo_gen.server import RestProcess, ServeOptions


def trgen(line: str) -> Result:
    return CliRunner().invoke(app, line.split())


@pytest.fixture
def rest_processes() -> list[RestProcess | None]:
    """What would have run beside each server."""
    return []


@pytest.fixture
def served(
    monkeypatch: pytest.MonkeyPatch, rest_processes: list[RestProcess | None]
) -> list[tuple[ServeOptions, str | None]]:
    """What would have been served; the server says that it ended with code 7."""
    calls: list[tuple[ServeOptions, str | None]] = []

    def serve(
        options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None
    ) -> int:
        rest_processes.append(rest_process)
        calls.append((options, tritonserver))
        return 7

    monkeypatch.setattr(server, "serve", serve)
    return calls


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ServeOptions(repository=Path("model_repository"))),
        ("--model-repository there", ServeOptions(repository=Path("there"))),
        (
            "--triton-port 1 --triton-http-address ::1 --grpc-port 2 --metrics-port 3",
            ServeOptions(
                repository=Path("model_repository"), http_address="::1", http_port=1, grpc_port=2, metrics_port=3
            ),
        ),
        ("-tp 4 -tha ::1", ServeOptions(repository=Path("model_repository"), http_port=4, http_address="::1")),
        ("-trp 4", ServeOptions(repository=Path("model_repository"), http_port=4)),
        (
            "--model_repository a_b --triton_port 4 --triton_http_address h",
            ServeOptions(repository=Path("a_b"), http_port=4, http_address="h"),
        ),
        (
            "-tp 4 -- --log_verbose 1 -tp",
            ServeOptions(repository=Path("model_repository"), http_port=4, forwarded=("--log_verbose", "1", "-tp")),
        ),
    ],
)
def test_flags(served: list[tuple[ServeOptions, str | None]], line: str, expected: ServeOptions) -> None:
    result = trgen(f"serve {line}")
    assert served == [(expected, None)]
    assert result.exit_code == 7
    assert result.output == ""


def test_the_program(served: list[tuple[ServeOptions, str | None]]) -> None:
    trgen("serve --tritonserver /opt/it")
    assert served[0][1] == "/opt/it"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ("0.0.0.0", 8080)),
        ("-sp 8081 -sa ::1", ("::1", 8081)),
        ("--server_port 8081 --server_address 127.0.0.1", ("127.0.0.1", 8081)),
    ],
)
def test_the_rest_service(
    served: list[tuple[ServeOptions, str | None]],
    rest_processes: list[RestProcess | None],
    line: str,
    expected: tuple[str, int],
) -> None:
    trgen(f"serve {line} --max-body-mib 3")
    (rest_process,) = rest_processes
    assert rest_process is not None
    assert (rest_process.endpoint.address, rest_process.endpoint.port) == expected
    assert {f"--server-address={expected[0]}", f"--server-port={expected[1]}", "--max-body-mib=3"} <= set(
        rest_process.command
    )


@pytest.mark.parametrize("line", ["--no-rest", "--no_rest -sp 8081", "--server-port 0"])
def test_no_rest_service(
    served: list[tuple[ServeOptions, str | None]], rest_processes: list[RestProcess | None], line: str
) -> None:
    trgen(f"serve {line}")
    assert rest_processes == [None]


@pytest.mark.parametrize("line", ["-tp 0", "-tp 65536", "--grpc-port many", "--metrics-port -1", "--unknown"])
def test_what_is_refused(served: list[tuple[ServeOptions, str | None]], line: str) -> None:
    assert trgen(f"serve {line}").exit_code == 2
    assert served == []


def test_a_repository_without_its_flag() -> None:
    flags = ServeFlags(forwarded=["model_repository"])
    with pytest.raises(ServerError, match="write a repository as --model-repository model_repository"):
        flags.to_options()


def test_deploy_refuses_a_port_in_use_before_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(
        options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None
    ) -> None:
        raise ServerError(f"Port {options.http_port} is in use.")

    monkeypatch.setattr(server, "check", check)
    line = "deploy --megatron_checkpoint /nowhere --triton_model_name llama -tp 9000"
    assert str(trgen(line).exception) == "Port 9000 is in use."


def test_the_commands_start_without_the_server_room() -> None:
    script = (
        "import sys, trition_repo_gen.cli; print([m for m in sys.modules if 'repo_gen.server' in m or 'numpy' in m])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
