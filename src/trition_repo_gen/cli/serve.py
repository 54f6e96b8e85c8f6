"""`trgen serve`: start stock tritonserver on a model repository."""

from pathlib import Path
from typing import Annotated

import typer

from trition_repo_gen.errors import ServerError
from trition_repo_gen.server.command import ServeOptions

_PANEL = "Server"

TritonPort = Annotated[
    int, typer.Option("--triton-port", "-tp", "-trp", min=1, max=65535, help="HTTP port.", rich_help_panel=_PANEL)
]
TritonHttpAddress = Annotated[
    str,
    typer.Option(
        "--triton-http-address", "-tha", help="Address that HTTP, gRPC and metrics bind.", rich_help_panel=_PANEL
    ),
]
GrpcPort = Annotated[int, typer.Option("--grpc-port", min=1, max=65535, help="gRPC port.", rich_help_panel=_PANEL)]
MetricsPort = Annotated[
    int, typer.Option("--metrics-port", min=1, max=65535, help="Prometheus metrics port.", rich_help_panel=_PANEL)
]
TritonServerPath = Annotated[
    str | None,
    typer.Option(
        "--tritonserver",
        metavar="PATH",
        help="The tritonserver program; else $TRITONSERVER, PATH, /opt/tritonserver, the nvidia-pytriton wheel's.",
        rich_help_panel=_PANEL,
    ),
]
ServerPort = Annotated[
    int | None,
    typer.Option("--server-port", "-sp", help="REST service's port; not in this version.", rich_help_panel=_PANEL),
]
ServerAddress = Annotated[
    str | None,
    typer.Option(
        "--server-address", "-sa", help="REST service's address; not in this version.", rich_help_panel=_PANEL
    ),
]
Forwarded = Annotated[
    list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options for tritonserver, as they are.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command("serve")
    def serve(
        model_repository: Annotated[
            Path, typer.Option("--model-repository", help="The repository to serve, with all its models.")
        ] = Path("model_repository"),
        triton_port: TritonPort = 8000,
        triton_http_address: TritonHttpAddress = "0.0.0.0",
        grpc_port: GrpcPort = 8001,
        metrics_port: MetricsPort = 8002,
        server_port: ServerPort = None,
        server_address: ServerAddress = None,
        tritonserver: TritonServerPath = None,
        forwarded: Forwarded = None,
    ) -> None:
        """Start stock tritonserver on a model repository.

        Runs until Ctrl-C or SIGTERM, which end tritonserver and everything that it started, and exits with
        tritonserver's code.
        """
        from trition_repo_gen import server

        note_rest_service(server_port, server_address)
        options = serve_options(
            model_repository, triton_port, triton_http_address, grpc_port, metrics_port, forwarded or []
        )
        raise typer.Exit(server.serve(options, tritonserver=tritonserver))


def serve_options(
    repository: Path, http_port: int, http_address: str, grpc_port: int, metrics_port: int, forwarded: list[str]
) -> ServeOptions:
    """Return the options of the command line as the server takes them.

    Raises:
        ServerError: an argument stands where only options may.
    """
    if forwarded and not forwarded[0].startswith("-"):
        raise ServerError(
            f"{forwarded[0]!r} is no option; write a repository as --model-repository {forwarded[0]}, "
            "and options for tritonserver after --."
        )
    return ServeOptions(
        repository=repository,
        http_address=http_address,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        forwarded=tuple(forwarded),
    )


def note_rest_service(port: int | None, address: str | None) -> None:
    """Say so when options were given that have no effect."""
    given = [flag for flag, value in (("--server-port", port), ("--server-address", address)) if value is not None]
    if given:
        verb = "has" if len(given) == 1 else "have"
        typer.echo(f"{' and '.join(given)} {verb} no effect: this version starts no REST service.", err=True)
