"""Which URLs of images may be fetched: the operator's host patterns, and nothing that could mean another host.

Standard library only: the stub refuses a request by it, and the ranks' leader looks again at every redirect.
"""

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

# What a URL may consist of (RFC 3986). Parsers disagree about everything else: blanks, backslashes, control characters.
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
# A name whose last label starts with a digit is an address to some resolvers: 2130706433, 0x7f.1, 127.1.
_HOST_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST = 8192
_PORTS = {"http": 80, "https": 443}


class ImageUrlError(ValueError):
    """The URL may not be fetched; the text is one sentence."""


@dataclass(frozen=True)
class ImageUrl:
    """A URL that may be fetched."""

    url: str
    scheme: str
    host: str
    """Lower-case; an IPv6 address stands without brackets."""
    port: int
    named: bool
    """Whether a pattern without a wildcard names this very host, which may then be inside the operator's network."""


def patterns(setting: str) -> tuple[str, ...]:
    """Return the patterns of the setting ALLOW_IMAGE_URLS: `HOST` or `HOST:PORT`, with `*` and `?` as wildcards."""
    return tuple(part.lower() for part in re.split(r"[,\s]+", setting) if part)


def is_pattern(text: str) -> bool:
    """Whether a text is one pattern, not a URL or several of them."""
    return bool(re.fullmatch(r"\[?[A-Za-z0-9_.:*?-]+\]?(?::(?:\d+|\*))?", text)) and "://" not in text


def check(url: str, allowed: tuple[str, ...]) -> ImageUrl:
    """Return the parts of a URL that may be fetched.

    Args:
        url: as a client or a redirect gives it.
        allowed: see `patterns`.

    Raises:
        ImageUrlError: it may not be fetched.
    """
    if not allowed:
        raise ImageUrlError("This server fetches no image URLs; send the image itself, as base64.")
    shown = repr(url if len(url) <= 100 else f"{url[:100]}…")
    if len(url) > _LONGEST or not _CHARACTERS.fullmatch(url):
        raise ImageUrlError(f"The image URL {shown} is too long or has characters that no URL has.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ImageUrlError(f"The image URL {shown} cannot be read.") from None
    if parts.scheme not in _PORTS:
        raise ImageUrlError(f"The image URL {shown} is neither http nor https.")
    if "@" in parts.netloc:
        raise ImageUrlError("An image URL must not hold a user name or a password.")
    address = _address(host)
    if address is None and not _HOST_NAME.fullmatch(host):
        raise ImageUrlError(f"The image URL {shown} has no plain host name.")
    host = host if address is None else str(address)
    port = port or _PORTS[parts.scheme]
    matching = [pattern for pattern in allowed if _matches(pattern, host, port, address is not None)]
    if not matching:
        raise ImageUrlError(f"This server fetches no images from {host}:{port}; send the image itself, as base64.")
    return ImageUrl(url, parts.scheme, host, port, any(not _is_wild(pattern) for pattern in matching))


def _matches(pattern: str, host: str, port: int, is_address: bool) -> bool:
    name, colon, number = pattern.rpartition(":")
    if colon and (number.isdigit() or number == "*") and (":" not in name or name.endswith("]")):
        if number not in ("*", str(port)):
            return False
        pattern = name
    pattern = pattern.removeprefix("[").removesuffix("]") if ":" in pattern else pattern
    # Only its own name lets an address in: a «*» is meant for names.
    return pattern == host if is_address else fnmatchcase(host, pattern)


def _is_wild(pattern: str) -> bool:
    return any(character in pattern.removesuffix(":*").removeprefix("[").removesuffix("]") for character in "*?[")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
