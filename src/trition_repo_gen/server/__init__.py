"""Finds, starts, monitors and stops stock tritonserver.

In a program or a test:

    from trition_repo_gen.server import running_server

    with running_server(repository, http_port=8000, grpc_port=8001, metrics_port=8002) as server:
        server.http_url, server.grpc_url, server.models, server.pid, server.log()

`Server.start(ServeOptions(...))`, `server.wait_ready(seconds)` and `server.stop()` are the same in three steps, and
`serve(ServeOptions(...))` is `trgen serve`: it runs until a signal comes and returns the exit code.
`check(ServeOptions(...))` reports what would keep the server from starting, and starts nothing.
"""

from .command import Endpoint, ServeOptions
from .find import TritonServer, find_tritonserver
from .foreground import serve
from .ports import free_ports
from .process import Server, ServerExitedError, check, running_server
from .rest_process import RestProcess

__all__ = [
    "Endpoint",
    "RestProcess",
    "ServeOptions",
    "Server",
    "ServerExitedError",
    "TritonServer",
    "check",
    "find_tritonserver",
    "free_ports",
    "running_server",
    "serve",
]
