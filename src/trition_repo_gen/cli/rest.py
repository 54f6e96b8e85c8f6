"""`trgen rest`: the OpenAI-compatible service in front of a Triton that runs already."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Option

from trition_repo_gen.cli._flags import FlagGroup, takes
from trition_repo_gen.errors import ServerError

if TYPE_CHECKING:
    from trition_repo_gen.rest import RestOptions

_PANEL = "The REST service"


@dataclass(frozen=True, kw_only=True)
class RestServiceFlags:
    """What the command line says about the service itself."""

    server_port: int = 8080
    server_address: str = "0.0.0.0"
    api_key_file: Path | None = None
    max_body_mib: int = 32
    max_requests_per_minute: int = 6000
    max_concurrent_requests: int = 1024

    def to_options(self, triton: str) -> "RestOptions":
        """Return what the rest room takes.

        Args:
            triton: HOST:PORT of Triton's gRPC endpoint.
        """
        from trition_repo_gen.rest import RestOptions

        return RestOptions(
            triton=triton,
            address=self.server_address,
            port=self.server_port,
            api_key_file=self.api_key_file,
            max_body_mib=self.max_body_mib,
            max_requests_per_minute=self.max_requests_per_minute,
            max_concurrent_requests=self.max_concurrent_requests,
        )

    def command_line(self) -> list[str]:
        """Return the flags of `trgen rest` that say the same."""
        values = [(field.name.replace("_", "-"), getattr(self, field.name)) for field in fields(RestServiceFlags)]
        return [f"--{name}={value}" for name, value in values if value is not None]


@dataclass(frozen=True, kw_only=True)
class RestFlags(RestServiceFlags):
    """What the command line says to `trgen rest`."""

    triton: str = "127.0.0.1:8001"


@dataclass(frozen=True, kw_only=True)
class BesideFlags(RestServiceFlags):
    """What the command line says about the service that runs beside tritonserver."""

    no_rest: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there shall be one."""
        return not self.no_rest and self.server_port != 0


_SERVICE = {
    "server_port": Option(
        "--server-port", "-sp", min=0, max=65535, help="The REST service's port.", rich_help_panel=_PANEL
    ),
    "server_address": Option("--server-address", "-sa", help="Where the REST service listens.", rich_help_panel=_PANEL),
    "api_key_file": Option(
        "--api-key-file",
        metavar="PATH",
        help="Answer only those who send one of the keys in this file, one a line.",
        rich_help_panel=_PANEL,
    ),
    "max_body_mib": Option(
        "--max-body-mib", min=1, metavar="MIB", help="Size of the largest request.", rich_help_panel=_PANEL
    ),
    "max_requests_per_minute": Option(
        "--max-requests-per-minute",
        min=0,
        metavar="N",
        help="Of one key, or without keys of one address; 0 is no limit.",
        rich_help_panel=_PANEL,
    ),
    "max_concurrent_requests": Option(
        "--max-concurrent-requests",
        min=0,
        metavar="N",
        help="Requests under way at once; 0 is no limit.",
        rich_help_panel=_PANEL,
    ),
}
REST = FlagGroup(
    RestFlags,
    {**_SERVICE, "triton": Option("--triton", metavar="HOST:PORT", help="Triton's gRPC endpoint.")},
)
BESIDE = FlagGroup(
    BesideFlags,
    {**_SERVICE, "no_rest": Option("--no-rest", help="Start no REST service.", rich_help_panel=_PANEL)},
)


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("rest")(rest)


@takes(REST)
def rest(flags: RestFlags) -> None:
    """Start the OpenAI-compatible REST service, and its page, in front of a Triton that runs already.

    It runs until Ctrl-C or SIGTERM. `trgen serve` and `trgen deploy` start one beside tritonserver by themselves.
    """
    require()
    if flags.server_port == 0:
        raise ServerError("--server-port is 0; write a port such as 8080.")
    from trition_repo_gen.rest.serving import serve

    serve(flags.to_options(flags.triton))


def require() -> None:
    """Check that what the service needs is installed.

    Raises:
        ServerError: it is not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ServerError(
            f"The REST service needs {missing[0]}; install it with pip install 'trition-repo-gen[serve]', "
            "or write --no-rest."
        )
