"""`trgen build`: write a Triton model repository for a checkpoint."""

import shlex
from typing import TYPE_CHECKING

import typer

from trition_repo_gen.cli._flags import takes
from trition_repo_gen.cli._options import BUILD
from trition_repo_gen.cli._progress import progress
from trition_repo_gen.repository.options import BuildOptions

if TYPE_CHECKING:
    from trition_repo_gen.repository.build import Build
    from trition_repo_gen.repository.sizing import Sizing


_STREAMING_MODELS = {"stream": "which streams its answers", "trtllm": "which has the tensors of TensorRT-LLM"}


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("build")(build)


@takes(BUILD, config_file=True)
def build(options: BuildOptions) -> None:
    """Write a Triton model repository for a Megatron-Bridge or a NeMo 2.0 multimodal checkpoint."""
    from trition_repo_gen.repository.build import build_repository  # pydantic, jinja2 and yaml: not for --help

    with progress() as report:
        result = build_repository(options, report)
    if result.dry_run:
        print_dry_run(result)
    print_build(result)
    if not result.dry_run:
        repository = shlex.quote(str(result.deployment.model_repository))
        typer.echo(f"next: trgen serve --model-repository {repository}")


def print_build(result: "Build") -> None:
    """Print what was written (in a dry run: what would be), the layout, and the notes, a line each."""
    deployment, checkpoint = result.deployment, result.checkpoint

    def say(outcome: str, what: str) -> None:
        typer.echo(f"{'would be ' if result.dry_run and outcome != 'unchanged' else ''}{outcome}: {what}")

    say(result.written.outcome, f"{deployment.model_folder} (version {deployment.model_version})")
    for kind, written in result.streaming_models.items():
        say(written.outcome, f"{deployment.streaming_model_folder(kind)}, {_STREAMING_MODELS[kind]}")
    for folder in result.removed:
        say("removed", str(folder))
    if result.written.outcome == "updated":
        typer.echo(f"changed: {_list(list(map(str, result.written.changed)))}")
    for name, written in [
        (deployment.model_name, result.written),
        *((deployment.streaming_model_name(kind), written) for kind, written in result.streaming_models.items()),
    ]:
        if written.edited and not result.dry_run:
            typer.echo(
                f"note: {name}/config.pbtxt had been edited by hand; the edited one is kept as {written.edited}."
            )
    typer.echo(
        f"model: {checkpoint.family}, {checkpoint.num_layers} layers, {_size(checkpoint.weights_bytes)} of "
        f"{checkpoint.dtype} weights, served in {deployment.settings.params_dtype}, "
        f"sequences of {deployment.settings.max_sequence_length} tokens"
    )
    typer.echo(f"layout: {result.layout.describe()}")
    for note in result.notes:
        typer.echo(f"note: {note}")
    print_sizing(result.sizing)


def print_sizing(sizing: "Sizing") -> None:
    """Print what each GPU holds, and what its KV cache has room for, a line each."""
    from trition_repo_gen.repository.sizing import binary

    about = "" if sizing.is_exact else "about "
    parts = [f"{about}{binary(sizing.weights)} of weights", f"{binary(sizing.working)} of working memory"]
    if sizing.kv_cache is not None:
        parts.append(f"{binary(sizing.kv_cache)} of KV cache")
        parts.append(f"{binary(sizing.total)}{f' of {binary(sizing.gpu)}' if sizing.gpu else ''} in all")
    typer.echo(f"per GPU: {', '.join(parts)}")
    room = f"{binary(sizing.room_for(sizing.max_requests))} for {sizing.max_requests} requests"
    if sizing.kv_cache is not None:
        room = f"room for {sizing.tokens:,} tokens, {sizing.requests:,} requests"
    typer.echo(f"KV cache: {binary(sizing.token_bytes)} a token, {room} of {sizing.max_sequence_length} tokens")


def _list(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _size(count: int) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    power = min((len(str(count)) - 1) // 3, len(units) - 1)
    return f"{count / 1000**power:.3g} {units[power]}"


def print_dry_run(result: "Build") -> None:
    """Print the files' paths and the text of config.pbtxt."""
    typer.echo(f"{result.deployment.model_folder}/")
    for path in sorted(result.files):
        typer.echo(f"    {path}")
    typer.echo(f"\n{result.config}")
