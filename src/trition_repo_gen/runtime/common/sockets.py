"""ZeroMQ sockets between this deployment's processes."""

import zmq

type Socket = zmq.Socket[bytes]


def new_socket(kind: int, *, linger: int = 0) -> Socket:
    """Return a socket that keeps whatever is sent until it is read.

    By default about two thousand messages wait for a peer that is late; a ROUTER or an XPUB then drops what comes
    without a word, and other kinds block (zmq_setsockopt(3), ZMQ_SNDHWM). A lost answer would never be missed. How
    much can wait is bounded by the sequences that are let in.

    Args:
        kind: zmq.ROUTER or another.
        linger: milliseconds that unsent messages survive the socket's end.
    """
    socket: Socket = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.LINGER, linger)
    return socket
