"""What users write as a URL."""

import pytest

from trition_repo_gen.clients.address import parse_url
from trition_repo_gen.errors import QueryError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost", "http://localhost:8000"),
        ("localhost:9000", "http://localhost:9000"),
        ("http://localhost:9000", "http://localhost:9000"),
        ("http://localhost:9000/", "http://localhost:9000"),
        ("HTTP://localhost", "http://localhost:8000"),
        ("https://example.org:443", "https://example.org:443"),
        ("grpc://localhost", "grpc://localhost:8001"),
        ("grpcs://example.org:443", "grpcs://example.org:443"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("grpc://0.0.0.0:9001", "grpc://127.0.0.1:9001"),
        ("[::]:9000", "http://[::1]:9000"),
        ("[fe80::1]", "http://[fe80::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
        ("my_host.", "http://my_host.:8000"),
        ("bücher.example", "http://bücher.example:8000"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert str(parse_url(url)) == expected


@pytest.mark.parametrize(
    ("url", "grpc", "encrypted"),
    [("a", False, False), ("https://a", False, True), ("grpc://a", True, False), ("grpcs://a", True, True)],
)
def test_what_is_spoken(url: str, grpc: bool, encrypted: bool) -> None:
    address = parse_url(url)
    assert (address.grpc, address.encrypted) == (grpc, encrypted)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://localhost", "'ftp://localhost' has the scheme 'ftp'; write HOST"),
        ("http://", "'http://' has no host"),
        ("", "'' has no host"),
        (":8000", "':8000' has no host"),
        ("localhost:many", "'localhost:many' cannot be read"),
        ("localhost:70000", "'localhost:70000' cannot be read"),
        ("a..b", r"'a\.\.b' cannot be read \(label empty or too long\)"),
        ("\udcff", "cannot be read"),
        ("localhost:8000/v2/models", "says more than where the server is"),
        ("http://me@localhost", "says more than where the server is"),
    ],
)
def test_what_is_no_url(url: str, sentence: str) -> None:
    with pytest.raises(QueryError, match=sentence):
        parse_url(url)
