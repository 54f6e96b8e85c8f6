"""Reads flags from a YAML file: `--config FILE.yaml`. Flags on the command line win over the file."""

import difflib
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from trition_repo_gen.errors import UserError, system_errors
from trition_repo_gen.paths import expanded


class ConfigFileError(UserError):
    """The file cannot be read, or has a key that is no flag of the command."""


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's flags. Runs before the flags themselves are read."""
    if path is not None and not context.resilient_parsing:
        context.default_map = {**(context.default_map or {}), **_values(context, path)}
    return path


CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.yaml",
            is_eager=True,
            callback=_read,
            help="File with the long names of flags as keys; flags on the command line win over it.",
        ),
    ],
)
"""The flag."""


def _values(context: typer.Context, path: Path) -> dict[str, Any]:
    """Return the file's values by the names of the command's parameters.

    Raises:
        ConfigFileError: it cannot be read, is no mapping, or has an unknown key or a value of a wrong kind.
    """
    import yaml

    with system_errors(ConfigFileError, f"--config {path} cannot be read", "write another file"):
        text = expanded(path).read_bytes()
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigFileError(
            f"--config {path} is no YAML file ({reason}); write lines like model-name: llama."
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigFileError(f"--config {path} has no keys; write lines like model-name: llama.")
    names = _parameters(context)
    values: dict[str, Any] = {}
    for key, value in content.items():
        assert context.token_normalize_func is not None
        name = context.token_normalize_func(str(key))
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise ConfigFileError(
                f"--config {path} has the key {str(key)!r}, which is no flag of {context.command_path}; "
                f"write {nearest[0]}, or remove it."
            )
        parameter = names[name]
        if parameter.name in values:
            raise ConfigFileError(f"--config {path} has {name} twice; remove one of them.")
        if value is not None:
            values[parameter.name] = _value(parameter, name, value, path)
    return values


def _parameters(context: typer.Context) -> dict[str, Any]:
    """Return the command's parameters by their long names; an argument's is its metavar in small letters."""
    names: dict[str, Any] = {}
    for parameter in context.command.params:
        if parameter.param_type_name == "argument":
            if parameter.nargs == 1:
                names[str(parameter.metavar).lower()] = parameter
        elif parameter.name not in ("config", "help"):
            names |= {name.removeprefix("--"): parameter for name in parameter.opts if name.startswith("--")}
    return names


def _value(parameter: Any, name: str, value: Any, path: Path) -> Any:
    """Return a value as the command line would have it: a text, a truth value for a switch, a list of texts."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ConfigFileError(f"--config {path} has {name}: {value!r}; it is a switch, write true or false.")
        return value
    if parameter.multiple:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, (list, dict)):
        raise ConfigFileError(f"--config {path} has {name}: {value!r}; write one value.")
    if isinstance(value, bool):  # YAML's word for on and off
        return "on" if value else "off"
    return str(value)
