"""`trgen rest`: the OpenAI-compatible service in front of a Triton that runs already."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import Option

from trition_repo_gen.addresses import ANY_ADDRESS, REST_PORT, TRITON_GRPC_PORT
from trition_repo_gen.cli._flags import FlagGroup, count, in_panel, port, takes
from trition_repo_gen.errors import ServerError

if TYPE_CHECKING:
    from trition_repo_gen.rest import RestOptions


@dataclass(frozen=True, kw_only=True)
class RestServiceFlags:
    """What the command line says about the service itself."""

    server_port: int = REST_PORT
    """Port of the REST service."""
    server_address: str = ANY_ADDRESS
    """Address that the REST service listens on."""
    api_key_file: Path | None = None
    """File of keys, one a line; only requests with one of them are answered."""
    max_body_mib: int = 32
    """MiB of the largest request."""
    max_requests_per_minute: int = 6000
    """Requests per minute of one key, without keys of one address; 0 is no limit."""
    max_concurrent_requests: int = 1024
    """Requests in progress at once; 0 is no limit."""

    def to_options(self, triton: str) -> "RestOptions":
        """Return the options of the package `rest`.

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
        """Return the same flags for `trgen rest`."""
        values = [(field.name.replace("_", "-"), getattr(self, field.name)) for field in fields(RestServiceFlags)]
        return [f"--{name}={value}" for name, value in values if value is not None]


@dataclass(frozen=True, kw_only=True)
class RestFlags(RestServiceFlags):
    """What the command line says to `trgen rest`."""

    triton: str = f"127.0.0.1:{TRITON_GRPC_PORT}"
    """Triton's gRPC endpoint."""


@dataclass(frozen=True, kw_only=True)
class BesideFlags(RestServiceFlags):
    """What the command line says about the service that trgen serve starts beside tritonserver."""

    no_rest: bool = False
    """Start no REST service."""

    @property
    def wanted(self) -> bool:
        """Whether the service is started."""
        return not self.no_rest and self.server_port != 0


def _service(**more: Any) -> dict[str, Any]:
    return in_panel(
        "REST service",
        {
            "server_port": port("--server-port", "-sp", least=0),
            "server_address": Option("--server-address", "-sa", metavar="ADDRESS"),
            "api_key_file": Option("--api-key-file"),
            "max_body_mib": count("--max-body-mib", metavar="MIB"),
            "max_requests_per_minute": count("--max-requests-per-minute", least=0),
            "max_concurrent_requests": count("--max-concurrent-requests", least=0),
            **more,
        },
    )


REST = FlagGroup(RestFlags, _service(triton=Option("--triton", metavar="HOST:PORT")))
BESIDE = FlagGroup(BesideFlags, _service(no_rest=Option("--no-rest")))


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("rest")(rest)


@takes(REST)
def rest(flags: RestFlags) -> None:
    """Start the OpenAI-compatible REST service, and its page, in front of a Triton that runs already.

    It runs until Ctrl-C or SIGTERM. trgen serve and trgen deploy start one beside tritonserver.
    """
    require()
    if flags.server_port == 0:
        raise ServerError("--server-port is 0; write a port such as 8080.")
    from trition_repo_gen.rest.serving import serve

    serve(flags.to_options(flags.triton))


def require() -> None:
    """Check that the packages of the service are installed.

    Raises:
        ServerError: one is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ServerError(
            f"The REST service needs {missing[0]}; install it with pip install 'trition-repo-gen[serve]', "
            "or write --no-rest."
        )
