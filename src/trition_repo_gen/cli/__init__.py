"""The command `trgen`. Each command is a file that parses, calls one function and prints."""

import sys
from typing import Annotated

import typer

from trition_repo_gen import __version__
from trition_repo_gen.cli._command import WIDTH, App, Group
from trition_repo_gen.cli._flags import canonical
from trition_repo_gen.errors import UserError

app = App(
    name="trgen",
    cls=Group,
    help="Write a Triton model repository for a Megatron checkpoint, and serve it with stock tritonserver.",
    no_args_is_help=True,
    epilog="Words in a flag may be joined by '_' instead of '-'. A user's mistake ends with exit code 2.",
    pretty_exceptions_enable=False,
    # Errors are plain text: importing Rich takes as long as everything else. `_command` draws the help.
    rich_markup_mode=None,
    context_settings={
        "token_normalize_func": canonical,
        "help_option_names": ["-h", "--help"],
        "max_content_width": WIDTH,
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trgen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# After `app`, since the modules of the commands are parts of this package.
from trition_repo_gen.cli import build, deploy, environment, query, rest, serve  # noqa: E402

for _command in (build, serve, deploy, rest, query, environment):
    _command.register(app)


def main() -> None:
    """Run `trgen`: a user's mistake is one line on stderr and exit code 2, a bug is a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"trgen: {error}", err=True)
        sys.exit(2)
