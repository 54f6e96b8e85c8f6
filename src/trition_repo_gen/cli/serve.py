"""`trgen serve`: start stock tritonserver on a model repository, and the REST service beside it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from trition_repo_gen.addresses import ANY_ADDRESS, TRITON_GRPC_PORT, TRITON_HTTP_PORT, TRITON_METRICS_PORT
from trition_repo_gen.cli._flags import FlagGroup, in_panel, port, takes
from trition_repo_gen.cli.rest import BESIDE, BesideFlags, require
from trition_repo_gen.errors import ServerError

if TYPE_CHECKING:
    from trition_repo_gen.server import RestProcess, ServeOptions


@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """What the command line says about the server."""

    model_repository: Path = Path("model_repository")
    """Folder of models to serve."""
    triton_port: int = TRITON_HTTP_PORT
    """Port of Triton's HTTP endpoint."""
    triton_http_address: str = ANY_ADDRESS
    """Address that Triton listens on, for gRPC and metrics as well."""
    grpc_port: int = TRITON_GRPC_PORT
    """Port of Triton's gRPC endpoint."""
    metrics_port: int = TRITON_METRICS_PORT
    """Port of Triton's metrics, for Prometheus."""
    tritonserver: str | None = None
    """Program tritonserver to start."""
    forwarded: list[str] = field(default_factory=list)
    """Options for tritonserver, as they are."""

    def to_options(self) -> "ServeOptions":
        """Return the options of the package `server`.

        Raises:
            ServerError: the first forwarded word is no option.
        """
        from trition_repo_gen.server import ServeOptions

        if self.forwarded and not self.forwarded[0].startswith("-"):
            raise ServerError(
                f"{self.forwarded[0]!r} is no option; write a repository as --model-repository {self.forwarded[0]}, "
                "and options for tritonserver after --."
            )
        return ServeOptions(
            repository=self.model_repository,
            http_address=self.triton_http_address,
            http_port=self.triton_port,
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            forwarded=tuple(self.forwarded),
        )


SERVE = FlagGroup(
    ServeFlags,
    in_panel(
        "tritonserver",
        {
            "model_repository": Option("--model-repository"),
            "triton_port": port("--triton-port", "-tp", "-trp"),
            "triton_http_address": Option("--triton-http-address", "-tha", metavar="ADDRESS"),
            "grpc_port": port("--grpc-port"),
            "metrics_port": port("--metrics-port"),
            "tritonserver": Option(
                "--tritonserver",
                metavar="PATH",
                show_default="$TRITONSERVER, PATH's, /opt/tritonserver's, the nvidia-pytriton wheel's",
            ),
            "forwarded": Argument(metavar="-- OPTIONS"),
        },
    ),
)


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("serve")(serve)


@takes(SERVE, BESIDE, config_file=True)
def serve(flags: ServeFlags, rest: BesideFlags) -> None:
    """Start stock tritonserver on a model repository, and the REST service beside it.

    They run until Ctrl-C or SIGTERM, which ends everything that was started. The exit code is tritonserver's.
    """
    run(flags, rest)


def run(flags: ServeFlags, rest: BesideFlags) -> None:
    """Serve in the foreground, and exit with tritonserver's code."""
    from trition_repo_gen import server

    code = server.serve(flags.to_options(), tritonserver=flags.tritonserver, rest_process=rest_process(rest))
    raise typer.Exit(code)


def rest_process(rest: BesideFlags) -> "RestProcess | None":
    """Return how to start the REST service beside tritonserver, or None when it is turned off.

    Raises:
        ServerError: one of its packages is missing, or its file of keys cannot be used.
    """
    if not rest.wanted:
        return None
    from trition_repo_gen.server import Endpoint, RestProcess

    require()
    if rest.api_key_file is not None:
        from trition_repo_gen.rest.guard import ApiKeys

        ApiKeys.read(rest.api_key_file)
    return RestProcess(
        name="REST service",
        command=(sys.executable, "-m", "trition_repo_gen", "rest", *rest.command_line()),
        endpoint=Endpoint(rest.server_address, rest.server_port, "--server-port"),
        ready_line="rest: ",
    )
