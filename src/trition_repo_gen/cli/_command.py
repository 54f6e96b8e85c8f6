"""Commands of `trgen` as Typer shows them: help in panels, a sentence for a flag that is written wrongly."""

import difflib
import os
import re
import sys
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_Rows = list[tuple[str, str]]

_NAMES = 30
"""Columns that the help has for names beside their descriptions."""
_OTHER = "Options"
"""The panel of options that name none."""
WIDTH = 120
"""Columns that the help takes at most."""


class Panels:
    """Shows the help's options in panels; a mixin of Typer's classes.

    Names are never shortened: a description goes below a name that is too long. Rich draws the panels, and is imported,
    only for a terminal.
    """

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        """Write the panels."""
        panels = _panels(self.get_params(ctx), ctx)
        if isinstance(self, TyperGroup):
            commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
            rows = [(name, each.get_short_help_str(WIDTH)) for name, each in commands.items() if each is not None]
            panels = {"Commands": rows, **panels}
        for title, rows in panels.items():
            if _is_terminal():
                formatter.write(_drawn(title, _lines(rows, formatter.width - len("│  │")), formatter.width))
            else:
                formatter.write(f"\n{title}:\n" + "".join(f"  {line}\n" for line in _lines(rows, formatter.width - 2)))

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        """Return the usage line's words: options that have to be written come first."""
        required = [
            f"{_long(param)} {param.metavar}"
            for param in self.get_params(ctx)
            if param.required and param.param_type_name == "option"
        ]
        return [*required, *super().collect_usage_pieces(ctx)]  # type: ignore[misc]


class Group(Panels, TyperGroup):
    """`trgen` itself."""


class Command(Panels, TyperCommand):
    """A command of `trgen`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        The words after `--` go to the argument `forwarded` of a command that has one, never to its other arguments.
        """
        words, forwarded = list(args), list[str]()
        if "--" in words and any(param.name == "forwarded" for param in self.params):
            dashes = words.index("--")
            words, forwarded = words[:dashes], words[dashes + 1 :]
        try:
            rest: list[str] = super().parse_args(ctx, list(words))
        except typer.TyperException as error:
            self._explain(ctx, words, error)
            raise
        if forwarded:
            ctx.params["forwarded"] = [*(ctx.params["forwarded"] or ()), *forwarded]
            ctx.set_parameter_source("forwarded", _commandline(ctx))
        return rest

    def _explain(self, ctx: typer.Context, words: list[str], error: Any) -> None:
        """Name the whole word and similar flags in an error about a short flag of several letters.

        The parser reads an unknown `-tp` as `-t -p`, and its own message says that there is no `-t`.
        """
        letter = getattr(error, "option_name", "")
        if type(error).__name__ != "NoSuchOption" or len(letter) != 2:
            return
        known = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        written = (word.partition("=")[0] for word in words)
        name = next((word for word in written if word.startswith(letter) and word not in known), letter)
        shorts = {
            short: _long(param)
            for param in self.get_params(ctx)
            for short in (*param.opts, *param.secondary_opts)
            if not short.startswith("--") and short.startswith("-")
        }
        begins = [short for short in shorts if short.startswith(name)]
        close = begins or difflib.get_close_matches(name, shorts, n=2)
        meant = " or ".join(f"{short} ({shorts[short]})" if shorts[short] else short for short in close)
        error.possibilities = None
        error.message = f"{name} is no option of {ctx.command_path}; " + (
            f"write {meant}." if meant else f"{ctx.command_path} --help lists the options."
        )


class App(typer.Typer):
    """A Typer application whose commands are `Command`s."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        """Return a decorator that adds a command."""
        return super().command(name, **{"cls": Command, **settings})


def _panels(params: list[Any], ctx: typer.Context) -> dict[str, _Rows]:
    """Return the rows of each panel, those of the options that name no panel last."""
    panels: dict[str, _Rows] = {}
    others: _Rows = []
    for param in params:
        record = param.get_help_record(ctx)
        if record is None:
            continue
        names = param.display_name_raw if param.param_type_name == "argument" else record[0]
        panel = getattr(param, "rich_help_panel", None)
        rows = panels.setdefault(panel, []) if panel else others
        # Typer puts a default that is described in words into parentheses.
        rows.append((names, re.sub(r"\[default: \((.*)\)\]$", r"[default: \1]", record[1])))
    return {**panels, **({_OTHER: others} if others else {})}


def _long(param: Any) -> str:
    """Return a parameter's long name; empty where it has none."""
    return next((name for name in param.opts if name.startswith("--")), "")


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _lines(rows: _Rows, width: int) -> list[str]:
    """Return the lines of a panel: names, and their descriptions beside them, or below names that are long."""
    column = min(max((len(names) for names, _ in rows), default=0), _NAMES) + 2
    lines = []
    for names, text in rows:
        # No break at hyphens: a flag that a text names stays whole.
        described = wrap(text, max(width - column, 20), break_on_hyphens=False) or [""]
        if len(names) + 2 > column:
            lines.append(names)
        else:
            lines.append(f"{names:{column}}{described.pop(0)}")
        lines += [" " * column + line for line in described]
    return [line.rstrip() for line in lines]


def _drawn(title: str, lines: list[str], width: int) -> str:
    """Return a panel as Rich draws it."""
    import io

    from rich.console import Console
    from rich.highlighter import RegexHighlighter
    from rich.panel import Panel
    from rich.text import Text
    from rich.theme import Theme

    class Names(RegexHighlighter):
        base_style = "trgen."
        highlights = [r"(?P<flag>(?<![\w-])--?[a-zA-Z][\w-]*)", r"(?P<default>\[(default: .*|required)\])"]  # noqa: RUF012

    written = io.StringIO()
    theme = Theme({"trgen.flag": "bold cyan", "trgen.default": "dim"})
    console = Console(file=written, force_terminal=True, width=width, theme=theme, highlight=False)
    text = Names()(Text("\n".join(lines)))
    console.print(Panel(text, title=title, title_align="left", border_style="dim"))
    return written.getvalue()


def _commandline(ctx: typer.Context) -> Any:
    """Return the mark of what was written on the command line."""
    source: Any = type(ctx.get_parameter_source(next(iter(ctx.params))))
    return source.COMMANDLINE
