"""Finds free ports for servers."""

import contextlib
import random
import socket
from pathlib import Path

_LOWEST = 15000


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, and which no outgoing connection will use before a server binds them.

    They are below the kernel's range of ephemeral ports: tritonserver binds its ports only after the model has loaded,
    and until then the ranks open connections to each other.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = random.sample(range(_LOWEST, max(ephemeral, _LOWEST + 10 * count)), k=10 * count)
    free: list[int] = []
    for port in candidates:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            return free
    raise OSError("no free ports")
