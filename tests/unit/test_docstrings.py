from dataclasses import dataclass

from trition_repo_gen.docstrings import field_docstrings


@dataclass
class Base:
    first: int = 1
    """The first,
    on two lines."""
    second: int = 2
    """The second."""
    silent: int = 0


@dataclass
class Derived(Base):
    """Not a field's."""

    first: int = 3
    second: int = 4
    """Another second."""
    third: str = "3"
    """The third."""


def test_they_are_inherited() -> None:
    assert field_docstrings(Base) == {"first": "The first, on two lines.", "second": "The second."}
    assert field_docstrings(Derived) == {
        "first": "The first, on two lines.",
        "second": "Another second.",
        "third": "The third.",
    }
