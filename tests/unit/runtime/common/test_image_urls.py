import pytest

from trition_repo_gen.runtime.common.image_urls import ImageUrl, ImageUrlError, check, patterns


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("", ()), ("a.org", ("a.org",)), ("A.org, *.b.org:8080 ,", ("a.org", "*.b.org:8080")), ("a b", ("a", "b"))],
)
def test_patterns(setting: str, expected: tuple[str, ...]) -> None:
    assert patterns(setting) == expected


@pytest.mark.parametrize(
    ("url", "allowed", "host", "port", "named"),
    [
        ("https://a.org/x.png?w=1", "a.org", "a.org", 443, True),
        ("http://A.ORG", "a.org", "a.org", 80, True),
        ("HTTPS://img.a.org/x", "*.a.org", "img.a.org", 443, False),
        ("https://x.y.a.org/x", "*.a.org", "x.y.a.org", 443, False),
        ("https://x.a.org/x", "*.a.org,x.a.org", "x.a.org", 443, True),
        ("http://a.org:8080/x", "a.org:8080", "a.org", 8080, True),
        ("http://a.org:8080/x", "a.org:*", "a.org", 8080, True),
        ("http://a.org:8080/x", "a.org", "a.org", 8080, True),
        ("http://img-1:9000/x", "img-?", "img-1", 9000, False),
        ("http://127.0.0.1:9000/x", "127.0.0.1", "127.0.0.1", 9000, True),
        ("http://127.0.0.1:9000/x", "127.0.0.1:9000", "127.0.0.1", 9000, True),
        ("http://[::1]:9000/x", "[::1]:9000", "::1", 9000, True),
        ("http://[0:0::1]/x", "::1", "::1", 80, True),
        ("https://a.org/x", "*", "a.org", 443, False),
    ],
)
def test_what_may_be_fetched(url: str, allowed: str, host: str, port: int, named: bool) -> None:
    assert check(url, patterns(allowed)) == ImageUrl(url, url.partition(":")[0].lower(), host, port, named)


@pytest.mark.parametrize(
    ("url", "allowed", "sentence"),
    [
        ("https://a.org/x", "", "fetches no image URLs; send the image itself"),
        ("https://b.org/x", "a.org", "fetches no images from b.org:443"),
        ("https://a.org.evil.net/x", "a.org", "fetches no images from a.org.evil.net"),
        ("https://evila.org/x", "*.a.org", "fetches no images from evila.org"),
        ("https://a.org/x", "*.a.org", "fetches no images from a.org"),
        ("https://a.org:22/x", "a.org:443", "fetches no images from a.org:22"),
        ("https://user:secret@a.org/x", "a.org", "must not hold a user name or a password"),
        ("https://a.org@evil.net/x", "*", "must not hold a user name"),
        ("https://a.org\\@evil.net/x", "a.org", "characters that no URL has"),
        ("https://evil.net\\.a.org/x", "*.a.org", "characters that no URL has"),
        ("https://a.org/\r\nHost: evil.net", "a.org", "characters that no URL has"),
        ("https://a.org/ü", "*", "characters that no URL has"),
        ("https://ａ.org/", "*", "characters that no URL has"),
        ("https://a.org/" + "x" * 9000, "a.org", "too long"),
        ("file:///etc/passwd", "*", "neither http nor https"),
        ("ftp://a.org/x", "*", "neither http nor https"),
        ("https:///x", "*", "no plain host name"),
        ("https://a.org:70000/x", "*", "cannot be read"),
        ("https://[::1/x", "*", "cannot be read"),
        # addresses, in all the ways that resolvers read them: a wildcard does not mean them
        ("http://127.0.0.1/x", "*", "fetches no images from 127.0.0.1:80"),
        ("http://127.0.0.1/x", "127.0.0.*", "fetches no images from 127.0.0.1:80"),
        ("http://[::1]/x", "*", "fetches no images from ::1:80"),
        ("http://[::ffff:127.0.0.1]/x", "127.0.0.1", "fetches no images from ::ffff:"),
        ("http://2130706433/x", "*", "no plain host name"),
        ("http://0x7f000001/x", "*", "no plain host name"),
        ("http://0x7f.1/x", "*", "no plain host name"),
        ("http://127.1/x", "*", "no plain host name"),
        ("http://0177.0.0.1/x", "*", "no plain host name"),
        ("http://a.org./x", "*", "no plain host name"),
        ("http://a%2eorg/x", "*", "no plain host name"),
        ("http://-a.org/x", "*", "no plain host name"),
    ],
)
def test_what_may_not(url: str, allowed: str, sentence: str) -> None:
    with pytest.raises(ImageUrlError, match=sentence) as refusal:
        check(url, patterns(allowed))
    assert "secret" not in str(refusal.value)
