import pytest

from trition_repo_gen.addresses import netloc, reachable


@pytest.mark.parametrize(
    ("listened_on", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("localhost", "localhost")],
)
def test_a_wildcard_is_reached_on_this_machine(listened_on: str, reached: str) -> None:
    assert reachable(listened_on) == reached


def test_host_and_port() -> None:
    assert netloc("localhost", 80) == "localhost:80"
    assert netloc("::1", 80) == "[::1]:80"
