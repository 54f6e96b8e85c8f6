"""Makes Typer flags from a dataclass, so that commands can share them and other packages need no Typer."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trition_repo_gen.cli._config_file import CONFIG
from trition_repo_gen.docstrings import field_docstrings

# Names of the same flags in NeMo Export-Deploy's scripts; they are accepted and not shown in the help.
_OLDER_NAMES = {
    "triton-model-name": "model-name",
    "triton-model-version": "model-version",
    "tensor-parallelism-size": "tensor-parallel-size",
    "pipeline-parallelism-size": "pipeline-parallel-size",
    "expert-model-parallel-size": "expert-parallel-size",
}

_METAVARS: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}


def canonical(name: str) -> str:
    """Return the name of a flag or command, given without leading dashes, as it is declared.

    '_' may stand for '-' between words. Values never come here.
    """
    name = name.replace("_", "-")
    return _OLDER_NAMES.get(name, name)


def in_panel(title: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags that the help shows together under a title."""
    for flag in flags.values():
        flag.rich_help_panel = title
    return dict(flags)


MOST = 2**31 - 1
"""What Triton reads as `max_batch_size`, and more than there is of anything else."""


def count(*names: str, least: int = 1, most: int = MOST, metavar: str = "N", **settings: Any) -> Any:
    """Return a flag whose value is a whole number."""
    return typer.Option(*names, metavar=metavar, callback=_between(least, most), **settings)


def amount(*names: str, metavar: str, least: float = 0.0, most: float = MOST, **settings: Any) -> Any:
    """Return a flag whose value is a number."""
    return typer.Option(*names, metavar=metavar, callback=_between(least, most), **settings)


def port(*names: str, least: int = 1) -> Any:
    """Return a flag whose value is a port."""
    return count(*names, least=least, most=65535, metavar="PORT")


def _between(least: float, most: float) -> Callable[..., float | None]:
    """Return a check of a number that was given, which nan does not pass. A default may be outside of the bounds."""

    def check(context: typer.Context, param: typer.CallbackParam, value: float | None) -> float | None:
        if value is None or least <= value <= most or not is_given(context, str(param.name)):
            return value
        bounds = f"at least {least}" if value < least else f"at most {most}"
        raise typer.BadParameter(f"{value} is out of range; write {bounds}.")

    return check


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass of options, and for each of its fields the `typer.Option` or `typer.Argument` with its names.

    Type and default are the field's own. So are the help, which is the field's docstring, and the metavar, which names
    the type, unless the flag has others.
    """

    options: type[Any]
    flags: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Complete the flags."""
        hints, docstrings = typing.get_type_hints(self.options), field_docstrings(self.options)
        for name, flag in self.flags.items():
            flag.metavar = flag.metavar or _metavar(hints[name])
            flag.help = flag.help or docstrings.get(name)

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return one keyword parameter per flag, annotated as Typer reads it."""
        hints = typing.get_type_hints(self.options)
        fields = {field.name: field for field in dataclasses.fields(self.options)}
        return {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(fields[name]),
                annotation=Annotated[hints[name], flag],
            )
            for name, flag in self.flags.items()
        }

    def make(self, given: Mapping[str, Any]) -> Any:
        """Return the options with those of the values that are its own."""
        return self.options(**{name: given[name] for name in self.flags if name in given})


def takes(*groups: FlagGroup, config_file: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that takes one options object per group, in the groups' order.

    A field that several groups have is one flag, as the first of them declares it. An options object gets what was
    written, on the command line or in a file; what was not has the dataclass's default.

    Args:
        groups: the flags.
        config_file: whether the flags may stand in a file that `--config` names.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = {"context": inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)}
        for group in groups:
            parameters |= {name: each for name, each in group.parameters().items() if name not in parameters}
        if config_file:
            parameters["config"] = CONFIG

        def command(context: typer.Context, **values: Any) -> None:
            given = {name: value for name, value in values.items() if is_given(context, name)}
            function(*(group.make(given) for group in groups))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return command

    return decorate


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter's value was written by the user, not taken from its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _metavar(hint: Any) -> str | None:
    """Return what the help shows for a value of the type: `N`, `PATH`, `auto|on|off`; None for a switch."""
    if typing.get_origin(hint) is Literal:
        return "|".join(typing.get_args(hint))
    if hint in _METAVARS:
        return _METAVARS[hint]
    found = (_metavar(argument) for argument in typing.get_args(hint) if argument is not type(None))
    return next(found, None)
