"""Fetch images from the hosts that the operator allows, and from no other. Standard library only.

The client chooses the URL and so the host. The host has to match a pattern, at every redirect again; its address must
not belong to a private network unless a pattern names the host itself; and the connection goes to the address that was
checked, not to what the name resolves to a moment later. No proxy is used.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import urljoin

from ....common import image_urls
from ....common.image_urls import ImageUrl, ImageUrlError
from ....common.settings import Settings

_SECONDS = 10.0
"""For one image with all its redirects."""
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "trgen", "Connection": "close"}


class Fetcher:
    """Returns the image at a URL.

    Args:
        settings: of which `allow_image_urls` and `max_image_mib` are used.
        seconds: time limit for an image.
    """

    def __init__(self, settings: Settings, seconds: float = _SECONDS):
        self._allowed = image_urls.patterns(settings.allow_image_urls)
        self._most = int(settings.max_image_mib * 2**20)
        self._seconds = seconds
        self._tls = ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """Fetch an image.

        Raises:
            ImageUrlError: the URL, or one that it redirects to, may not be fetched, or no image came in time.
        """
        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(1 + _REDIRECTS):
                allowed = image_urls.check(url, self._allowed)
                moved, body = self._get(allowed, deadline)
                if moved is None:
                    return body
                url = urljoin(url, moved)
        except TimeoutError:
            raise self._failed(url, f"it took longer than {self._seconds:g} s") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            late = time.monotonic() >= deadline
            reason = f"it took longer than {self._seconds:g} s" if late else "the connection failed"
            raise self._failed(url, reason) from error
        raise self._failed(url, f"it redirects more than {_REDIRECTS} times")

    def _get(self, target: ImageUrl, deadline: float) -> tuple[str | None, bytes]:
        """Return where a URL redirects to, or None and the body of the answer."""
        with self._connected(target, deadline) as connection:
            path = target.url.split("/", 3)[3:]
            connection.request("GET", "/" + path[0].partition("#")[0] if path else "/", headers=_HEADERS)
            response = connection.getresponse()
            if response.status in _MOVED:
                if location := response.getheader("Location"):
                    return location, b""
                raise self._failed(target.url, "it redirects to nowhere")
            if response.status != http.client.OK:
                raise self._failed(target.url, f"its host answered {response.status}")
            if response.getheader("Content-Encoding", "identity") != "identity":
                raise self._failed(target.url, "it came compressed, which was not asked for")
            if (response.length or 0) > self._most:
                raise self._too_large(target.url)
            body = bytearray()
            while chunk := response.read(_CHUNK):
                body += chunk
                if len(body) > self._most:
                    raise self._too_large(target.url)
            _left(deadline)  # without a Content-Length, a closed connection looks like the end of the body
            if response.length:
                raise self._failed(target.url, "the connection broke")
            return None, bytes(body)

    @contextlib.contextmanager
    def _connected(self, target: ImageUrl, deadline: float) -> Iterator[http.client.HTTPConnection]:
        sock = socket.create_connection(self._address(target), timeout=_left(deadline))
        if target.scheme == "https":
            sock = self._tls.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
        # A host that sends a byte now and then never lets the socket's own timeout come.
        alarm = threading.Timer(_left(deadline), _shut, [sock])
        alarm.daemon = True
        alarm.start()
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = sock
            yield connection
        finally:
            alarm.cancel()
            sock.close()

    def _address(self, target: ImageUrl) -> tuple[str, int]:
        """Return the first address of a host, all of which have to be outside every inner network."""
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not target.named and not all(map(_is_public, addresses)):
            raise ImageUrlError(
                f"This server fetches no images from {target.host}, which is inside a network that is not public; "
                "send the image itself, as base64."
            )
        return addresses[0], target.port

    def _too_large(self, url: str) -> ImageUrlError:
        return self._failed(url, f"it has more than the {self._most} bytes that this model takes")

    def _failed(self, url: str, reason: str) -> ImageUrlError:
        return ImageUrlError(f"The image {url[:200]} cannot be fetched: {reason}.")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return (inner or ip).is_global and not (inner or ip).is_multicast


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of SSL, which would end TLS under the reader
