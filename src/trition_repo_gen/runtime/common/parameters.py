"""The mapping between a dataclass and the `parameters` of config.pbtxt: the key is the field's name in capitals.

Standard library only.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

_T = TypeVar("_T")
_MULTIMODAL = "multimodal"
_TEXT_ONLY = "text only"

Multimodal = Annotated[_T, _MULTIMODAL]
"""The type of a field that only a multimodal model reads."""
TextOnly = Annotated[_T, _TEXT_ONLY]
"""The type of a field that only a model without images reads."""

_RETIRED = frozenset({"ENABLE_FLASH_DECODE"})
"""Parameters that earlier builds wrote. Nothing reads them; a config.pbtxt that has one still loads."""
_STOCK = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"})
"""Parameters that Triton's Python backend reads itself (python_backend, README, and `src/python_be.cc`)."""
_STOCK_PREFIX = "TRITON_"


class SettingsError(ValueError):
    """A parameter of config.pbtxt is missing, unknown or of the wrong type."""


class Parameters:
    """Base of the dataclasses whose fields are parameters of config.pbtxt."""

    def to_parameters(self) -> dict[str, str]:
        """Return the fields as config.pbtxt holds them: upper-case keys, string values."""
        return {name.upper(): _write(getattr(self, name)) for name in field_names(type(self))}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Self:
        """Read the fields; a missing parameter has its default.

        Raises:
            SettingsError: a key is unknown, a value has the wrong type, or one without a default is missing.
        """
        hints = typing.get_type_hints(cls)
        fields = {field.name.upper(): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in sorted(parameters.keys() - fields.keys()):
            if key not in _RETIRED | _STOCK and not key.startswith(_STOCK_PREFIX):
                raise SettingsError(f"config.pbtxt has a parameter {key!r} that nothing reads; remove it.")
        for key, field in fields.items():
            if field.default is dataclasses.MISSING and not parameters.get(key):
                raise SettingsError(f"config.pbtxt has no parameter {key!r}; it has to be there.")
        return cls(
            **{
                field.name: _read(key, parameters[key], hints[field.name])
                for key, field in fields.items()
                if key in parameters
            }
        )

    @classmethod
    def of(cls, source: object, **values: Any) -> Self:
        """Return one with the attributes of `source` that have the names of its fields, and with `values`.

        A field that neither has keeps its default.
        """
        taken = {name: getattr(source, name) for name in field_names(cls) if hasattr(source, name)}
        return cls(**(taken | values))


def field_names(owner: type[Any]) -> list[str]:
    """Return the names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(owner)]


def only_for(owner: type[Any], *, multimodal: bool) -> frozenset[str]:
    """Return the names of the fields that only multimodal models read, or only models without images."""
    mark = _MULTIMODAL if multimodal else _TEXT_ONLY
    hints = typing.get_type_hints(owner, include_extras=True)
    return frozenset(name for name in field_names(owner) if mark in getattr(hints[name], "__metadata__", ()))


def _write(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(key: str, text: str, hint: Any) -> Any:
    if isinstance(hint, types.GenericAlias) or typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise SettingsError(f"Parameter {key} is {text!r}; it has to be one of {', '.join(choices)}.")
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise SettingsError(f"Parameter {key} is {text!r}; it has to be true or false.")
        return text == "true"
    try:
        value = hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise SettingsError(f"Parameter {key} is {text!r}; it has to be {kind}.") from None
    if hint in (int, float) and not value >= 0:
        raise SettingsError(f"Parameter {key} is {text!r}; it must not be negative.")
    return value
