"""Reads the docstrings below a dataclass's fields: help texts and the comments of config.pbtxt are these."""

import ast
import dataclasses
import inspect
from functools import cache
from pathlib import Path
from typing import Any


def field_docstrings(owner: type[Any]) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, its bases' included, as one line each.

    A field that is declared again without a docstring keeps the docstring of its base.
    """
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _docstrings(inspect.getfile(base)).get(base.__name__, {})
    return found


@cache
def _docstrings(path: str) -> dict[str, dict[str, str]]:
    """Return the fields' docstrings of every class at the top of a module."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for definition in tree.body:
        if isinstance(definition, ast.ClassDef):
            fields = found.setdefault(definition.name, {})
            for field, after in zip(definition.body, definition.body[1:], strict=False):
                match field, after:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        fields[name] = " ".join(text.split())
    return found
