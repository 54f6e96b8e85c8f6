"""Triton's errors as sentences."""

from typing import Any

import pytest

from trition_repo_gen.clients.errors import RequestTooSlowError, ServerFailedError, from_triton
from trition_repo_gen.errors import QueryError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400", QueryError),
        ("404", QueryError),
        ("499", QueryError),
        ("500", ServerFailedError),
        ("503", ServerFailedError),
        (None, ServerFailedError),
        ("", ServerFailedError),
        ("StatusCode.INVALID_ARGUMENT", QueryError),
        ("StatusCode.NOT_FOUND", QueryError),
        ("StatusCode.INTERNAL", ServerFailedError),
        ("StatusCode.UNAVAILABLE", ServerFailedError),
        ("StatusCode.DEADLINE_EXCEEDED", RequestTooSlowError),
    ],
)
def test_whose_fault_it_was(status: str | None, kind: type[QueryError]) -> None:
    assert type(from_triton(status, "because")) is kind


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "[request id: <id_unknown>] batch-size must be <= 4",
            "The server refused the request: batch-size must be <= 4",
        ),
        ("two\n  lines", "The server refused the request: two lines"),
        ("[8, 1] is the shape", "The server refused the request: [8, 1] is the shape"),
    ],
)
def test_the_sentence(message: str, expected: str) -> None:
    assert str(from_triton("400", message)) == expected


def test_a_server_that_says_nothing() -> None:
    assert str(from_triton(None, "")) == "The server failed and did not say why."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"message": "There is nothing at /v2.", "type": "x"}, "refused the request: There is nothing at /v2."),
        ({}, "refused the request: "),
        (["a"], "refused the request: ['a']"),
        (3, "refused the request: 3"),
    ],
)
def test_a_server_that_is_not_triton(message: Any, expected: str) -> None:
    assert str(from_triton("404", message)) == f"The server {expected}"
