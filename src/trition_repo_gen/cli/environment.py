"""`trgen environment`: install the Python environment of the ranks."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import typer
from typer import Argument, Option

from trition_repo_gen.cli._flags import FlagGroup, takes


@dataclass(frozen=True, kw_only=True)
class EnvironmentFlags:
    """What the command line says about an environment."""

    folder: Path
    """Folder of the environment; it must not exist yet, or be empty."""
    gpu: bool = False
    """Install the packages for GPUs."""
    nemo: bool = False
    """Install NeMo, which NeMo 2.0 checkpoints need, instead of Megatron-Bridge."""
    python: str | None = None
    """Python 3.12 that the environment is made of."""
    force: bool = False
    """Replace a virtual environment that is there."""


ENVIRONMENT = FlagGroup(
    EnvironmentFlags,
    {
        "folder": Argument(metavar="FOLDER"),
        "gpu": Option("--gpu"),
        "nemo": Option("--nemo"),
        "python": Option("--python", metavar="PATH", show_default="the one that runs trgen"),
        "force": Option("--force"),
    },
)


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("environment")(environment)


@takes(ENVIRONMENT)
def environment(flags: EnvironmentFlags) -> None:
    """Install the ranks' Python environment from the versions that trgen is tested with.

    It is installed with uv where that is found, else with pip.
    """
    import sys

    from trition_repo_gen import environments

    if flags.gpu and flags.nemo:
        typer.echo("note: --gpu has no effect with --nemo: the same packages serve with and without a GPU.")
    uv = environments.find_uv()
    python = environments.install(
        flags.folder,
        environments.lock_file(gpu=flags.gpu, nemo=flags.nemo),
        python=flags.python or sys.executable,
        force=flags.force,
        uv=uv,
        report=lambda step: typer.echo(f"installing: {step}", err=True),
    )
    typer.echo(f"installed: {flags.folder}")
    if flags.gpu and not flags.nemo:
        script = shlex.join(["bash", str(environments.extension_script()), uv or "UV", str(flags.folder)])
        typer.echo(
            "note: Transformer Engine's extension is published as source only; with g++ and a CUDA toolkit, compile it "
            f"with {script}."
        )
    typer.echo(f"next: trgen build --rank-python {shlex.quote(str(python))} …")
