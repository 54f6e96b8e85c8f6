"""Makes Typer flags from a dataclass, so that two commands can share them and a room below needs no Typer."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

# Names that NeMo Export-Deploy's scripts have for the same flags; they work, and stay out of the help.
_OLDER_NAMES = {
    "triton-model-name": "model-name",
    "triton-model-version": "model-version",
    "tensor-parallelism-size": "tensor-parallel-size",
    "pipeline-parallelism-size": "pipeline-parallel-size",
    "expert-model-parallel-size": "expert-parallel-size",
}


def canonical(name: str) -> str:
    """Return the name of a flag or command, given without leading dashes, as it is declared.

    '_' may stand for '-' between words. Values never come here.
    """
    name = name.replace("_", "-")
    return _OLDER_NAMES.get(name, name)


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass of options, and for each of its fields the `typer.Option` or `typer.Argument` with names and help.

    Type and default are the field's own.
    """

    options: type[Any]
    flags: Mapping[str, Any]

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return one keyword parameter per field, annotated as Typer reads it."""
        hints = typing.get_type_hints(self.options)
        return {
            field.name: inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(field),
                annotation=Annotated[hints[field.name], self.flags[field.name]],
            )
            for field in dataclasses.fields(self.options)
        }


def takes(*groups: FlagGroup) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that takes one options object per group, in the groups' order.

    A field that several groups have is one flag, as the first of them declares it.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: dict[str, inspect.Parameter] = {}
        for group in groups:
            parameters = {**group.parameters(), **parameters} if parameters else group.parameters()

        def command(**values: Any) -> None:
            function(*(group.options(**{name: values[name] for name in group.flags}) for group in groups))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return command

    return decorate


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
