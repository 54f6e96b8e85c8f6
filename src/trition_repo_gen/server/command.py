"""The settings of a server, and tritonserver's command line for them."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.addresses import (
    ANY_ADDRESS,
    TRITON_GRPC_PORT,
    TRITON_HTTP_PORT,
    TRITON_METRICS_PORT,
    netloc,
    reachable,
)
from trition_repo_gen.errors import ServerError, system_errors
from trition_repo_gen.paths import unreadable_for_triton

EXIT_TIMEOUT = 5
"""Seconds that tritonserver waits for running requests when it ends. With its own default, 30, it waits the full time
whenever a client keeps an idle connection."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of a server."""

    repository: Path
    http_address: str = ANY_ADDRESS
    """The address that HTTP, gRPC and metrics bind."""
    http_port: int = TRITON_HTTP_PORT
    grpc_port: int = TRITON_GRPC_PORT
    metrics_port: int = TRITON_METRICS_PORT
    forwarded: tuple[str, ...] = ()
    """Options for tritonserver's command line, unchanged. They override the fields above."""


@dataclass(frozen=True)
class Endpoint:
    """An address and port that tritonserver binds."""

    address: str
    port: int
    flag: str
    """The option of `trgen serve` that changes the port."""

    @property
    def host(self) -> str:
        """The address to connect to from this machine."""
        return reachable(self.address)

    @property
    def url(self) -> str:
        """`host:port`, as tritonclient takes it."""
        return netloc(self.host, self.port)


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """What to start: the options, overridden by the forwarded ones."""

    arguments: tuple[str, ...]
    """tritonserver's command line without the program."""
    http: Endpoint | None
    """None if the user has turned it off; the same for the next two."""
    grpc: Endpoint | None
    metrics: Endpoint | None
    repositories: tuple[Path, ...]
    loaded: frozenset[str] | None
    """The models to load; None means all models in the repositories."""
    exit_timeout: int
    """Seconds that tritonserver waits for running requests when it ends."""


def plan(options: ServeOptions) -> ServerPlan:
    """Return the command line for these options, and what it results in.

    Raises:
        ServerError: a forwarded option cannot be read, or is not a valid port.
    """
    forwarded = parse_options(options.forwarded)

    def last(name: str, default: str) -> str:
        return forwarded[name][-1] if name in forwarded else default

    def endpoint(kind: str, address: str, port: int, flag: str) -> Endpoint | None:
        if last(f"allow-{kind}", "true").lower() in ("false", "0"):
            return None
        return Endpoint(last(f"{kind}-address", address), _port(f"{kind}-port", last(f"{kind}-port", str(port))), flag)

    address = last("http-address", options.http_address)
    http = endpoint("http", address, options.http_port, "--triton-port")
    grpc = endpoint("grpc", options.http_address, options.grpc_port, "--grpc-port")
    metrics = endpoint("metrics", address, options.metrics_port, "--metrics-port")

    ours = {"model-repository": str(options.repository), "http-address": options.http_address}
    ours |= {"http-port": str(options.http_port), "grpc-port": str(options.grpc_port)}
    ours |= {"grpc-address": options.http_address, "metrics-port": str(options.metrics_port)}
    # tritonserver takes several repositories, but only one value of each other option.
    arguments = [
        f"--{name}={value}" for name, value in ours.items() if name not in forwarded or name == "model-repository"
    ]
    exit_timeout = _number("exit-timeout-secs", last("exit-timeout-secs", str(EXIT_TIMEOUT)))
    if "exit-timeout-secs" not in forwarded:
        arguments.append(f"--exit-timeout-secs={exit_timeout}")
    if not forwarded.keys() & {"disable-auto-complete-config", "strict-model-config"}:
        # Auto-complete starts a second stub for each model, which imports model.py only to ask for its configuration.
        arguments.append("--disable-auto-complete-config")

    loaded = None
    if last("model-control-mode", "none") == "explicit":
        asked = frozenset(forwarded.get("load-model", []))
        loaded = None if "*" in asked else asked
    return ServerPlan(
        arguments=(*arguments, *options.forwarded),
        http=http,
        grpc=grpc,
        metrics=metrics,
        repositories=(options.repository, *(Path(path) for path in forwarded.get("model-repository", []))),
        loaded=loaded,
        exit_timeout=exit_timeout,
    )


def models_to_wait_for(chosen: ServerPlan) -> tuple[str, ...]:
    """Return the names of the models that tritonserver will load, sorted.

    Raises:
        ServerError: a repository is missing or empty.
    """
    held = {name for repository in chosen.repositories for name in find_models(repository)}
    return tuple(sorted(held if chosen.loaded is None else chosen.loaded))


def parse_options(arguments: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values of each option of a tritonserver command line; "true" for one without a value.

    Raises:
        ServerError: the command line does not begin with an option.
    """
    values: dict[str, list[str]] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            values.setdefault(name, []).append(value if equals else "true")
            if equals:
                name = None
        elif name is not None:
            values[name][-1] = argument
            name = None
        else:
            raise ServerError(
                f"tritonserver takes no argument {argument!r}; write options such as --log-verbose=1 after --."
            )
    return values


def find_models(repository: Path) -> list[str]:
    """Return the names of the models in a repository, sorted.

    Raises:
        ServerError: it is missing, empty or cannot be read.
    """
    if character := unreadable_for_triton(repository):
        raise ServerError(
            f"The path of the model repository, {str(repository.absolute())!r}, has {character!r}, which Triton's "
            "Python backend cannot read; move the repository to a path of ASCII letters and digits without spaces."
        )
    with system_errors(
        ServerError,
        f"The model repository {str(repository)!r} cannot be read",
        "grant this user access, or name another",
    ):
        is_folder = repository.is_dir()
        if is_folder:
            next(repository.iterdir(), None)  # glob is silent about a folder that it may not read
    if not is_folder:
        raise ServerError(
            f"There is no model repository {str(repository)!r}; write one with trgen build, or name another."
        )
    names = sorted(
        path.parent.name for path in repository.glob("*/config.pbtxt") if not path.parent.name.startswith(".")
    )
    if not names:
        raise ServerError(f"The model repository {str(repository)!r} has no model; write one with trgen build.")
    return names


def check_ports(chosen: ServerPlan, *others: Endpoint) -> None:
    """Check that the ports can be bound; tritonserver itself binds them only after it has loaded the models.

    Args:
        chosen: what is going to be started.
        others: further endpoints that are going to be bound.

    Raises:
        ServerError: a port is in use or given twice, or the address is not this machine's.
    """
    endpoints = [endpoint for endpoint in (chosen.http, chosen.grpc, chosen.metrics, *others) if endpoint is not None]
    reused = any(argument.startswith("--reuse-") for argument in chosen.arguments)
    ports: dict[int, Endpoint] = {}
    for endpoint in endpoints:
        if other := ports.get(endpoint.port):
            raise ServerError(
                f"Port {endpoint.port} is given for both {other.flag} and {endpoint.flag}; write two ports."
            )
        ports[endpoint.port] = endpoint
        if not reused:
            _check_free(endpoint)


def _check_free(endpoint: Endpoint) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.address, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As tritonserver does: connections in TIME_WAIT do not occupy the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (socket.gaierror, UnicodeError):  # UnicodeError: Python's codec rejects empty and long labels
        raise ServerError(
            f"The address {endpoint.address!r} is unknown; write one such as 0.0.0.0 or 127.0.0.1."
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServerError(
                f"Port {endpoint.port} of {endpoint.address} is in use; write another one with {endpoint.flag}."
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ServerError(
                f"The address {endpoint.address!r} is not this machine's; write one such as 0.0.0.0 or 127.0.0.1."
            ) from None
        raise ServerError(
            f"Port {endpoint.port} of {endpoint.address} cannot be used ({error.strerror}); "
            f"write another one with {endpoint.flag}."
        ) from None


def _port(name: str, text: str) -> int:
    # Checked here because getaddrinfo takes any number and uses its lowest 16 bits.
    port = _number(name, text)
    if not 0 < port < 2**16:
        raise ServerError(f"tritonserver's option --{name} is {text!r}; write a port from 1 to 65535.")
    return port


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ServerError(f"tritonserver's option --{name} is {text!r}; write a whole number.") from None
