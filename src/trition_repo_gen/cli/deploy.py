"""`trgen deploy`: write a model repository for a checkpoint, then serve it."""

import typer

from trition_repo_gen.cli._flags import takes
from trition_repo_gen.cli._options import BUILD
from trition_repo_gen.cli._progress import progress
from trition_repo_gen.cli.build import print_build, print_dry_run
from trition_repo_gen.cli.rest import BESIDE, BesideFlags
from trition_repo_gen.cli.serve import SERVE, ServeFlags, rest_process, run
from trition_repo_gen.repository.options import BuildOptions


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("deploy")(deploy)


@takes(BUILD, SERVE, BESIDE, config_file=True)
def deploy(options: BuildOptions, flags: ServeFlags, rest: BesideFlags) -> None:
    """Write a Triton model repository for a checkpoint, then serve it: trgen build and trgen serve in one.

    With --dry-run, nothing is written and nothing is served.
    """
    from trition_repo_gen import server
    from trition_repo_gen.repository.build import build_repository

    serve_options = flags.to_options()
    if not options.dry_run:
        server.check(serve_options, tritonserver=flags.tritonserver, rest_process=rest_process(rest))
    with progress() as report:
        result = build_repository(options, report)
    if options.dry_run:
        print_dry_run(result)
    print_build(result)
    if not options.dry_run:
        run(flags, rest)
