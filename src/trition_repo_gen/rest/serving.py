"""Runs the service in the foreground."""

import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from trition_repo_gen.addresses import netloc, reachable
from trition_repo_gen.errors import ServerError

from .app import create_app
from .options import RestOptions
from .upstream import HttpProtocol, raise_descriptor_limit

_GRACE_SECONDS = 5
"""Seconds that requests in progress get at shutdown, as tritonserver gives them."""
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048
_ENDING = (signal.SIGINT, signal.SIGTERM)


def serve(options: RestOptions) -> None:
    """Serve until SIGINT or SIGTERM; print `rest: URL` when the service accepts requests.

    Raises:
        ServerError: the port cannot be bound, or the file of keys cannot be used.
    """
    app = create_app(options)
    with _listening(options) as listener:
        url = f"http://{netloc(reachable(options.address), options.port)}"
        HttpProtocol.max_connections = raise_descriptor_limit()
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        _Server(config, f"rest: {url}").run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own handler raises the signal again at the end, so that the exit code would not be 0.
        before = {number: signal.signal(number, self.handle_exit) for number in _ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(options: RestOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    try:
        return socket.create_server((options.address, options.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServerError(
            f"Port {options.port} of {options.address} cannot be used ({error.strerror}); "
            "write another one with --server-port, or another --server-address."
        ) from None
