"""Builds a model repository: options and a checkpoint become a deployment, which becomes a model's folder."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Checkpoint, Layout
from trition_repo_gen.errors import RepositoryError, system_errors
from trition_repo_gen.paths import expanded
from trition_repo_gen.repository import gpu, idle, interpreter, ownership, sizing
from trition_repo_gen.repository.deployment import Deployment, StreamingKind
from trition_repo_gen.repository.options import MAX_BATCH_SIZE, MULTIMODAL_MAX_BATCH_SIZE, BuildOptions
from trition_repo_gen.repository.recognise import recognise
from trition_repo_gen.repository.render import CONFIG, Files, render, render_streaming_model
from trition_repo_gen.repository.sizing import Sizing
from trition_repo_gen.repository.source import read_checkpoint
from trition_repo_gen.repository.validate import validate, validate_streaming_model
from trition_repo_gen.repository.write import Folder, Written, compare, write, writing
from trition_repo_gen.runtime.common import image_urls
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank.engines import memory


@dataclass(frozen=True)
class Build:
    """The result of a build, or of a dry run."""

    deployment: Deployment
    checkpoint: Checkpoint
    layout: Layout
    files: Files
    written: Written
    """What was done; in a dry run, what would be done."""
    streaming_models: dict[StreamingKind, Written]
    """The same for each streaming model."""
    removed: tuple[Path, ...]
    """Removed folders: streaming models of an earlier build that are not asked for any more."""
    dry_run: bool
    sizing: Sizing
    """How much memory of each GPU it uses."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""

    @property
    def config(self) -> str:
        """The text of config.pbtxt."""
        return self.files[CONFIG].decode()


def build_repository(options: BuildOptions, report: Callable[[str], None] = lambda step: None) -> Build:
    """Read the checkpoint, check the options, and write the model's folder unless it is a dry run.

    Args:
        options: the options of the build.
        report: called with a description of each step when it begins.

    Raises:
        UserError: a mistake in the options, the checkpoint or the repository, which is left as it was.
    """
    report("reading the checkpoint")
    options = recognise(options)
    checkpoint = read_checkpoint(options)
    options, idle_notes = idle.drop(options, checkpoint)
    layout, layout_notes = checkpoints.check(checkpoint, Layout.of(options))
    sequence_length, length_notes = checkpoints.sequence_length(checkpoint, options.inference_max_seq_length)
    usual_batch_size = MULTIMODAL_MAX_BATCH_SIZE if checkpoint.multimodal else MAX_BATCH_SIZE
    deployment = Deployment(
        model_name=options.model_name,
        model_version=options.model_version,
        model_repository=expanded(options.model_repository),
        max_batch_size=options.max_batch_size or usual_batch_size,
        stream=not options.no_stream,
        trtllm_alias=options.trtllm_alias,
        settings=_settings(options, checkpoint, layout, sequence_length),
    )
    report("asking for the GPUs' memory")
    sizes, gpu_notes = _fit(options, deployment.settings, checkpoint, layout)
    report("asking the ranks' Python for its packages")
    python_notes = interpreter.check(deployment.settings.rank_python, checkpoint)
    streaming_models = [kind for kind, wanted in deployment.streaming_models.items() if wanted]
    folders = [_model_folder(deployment), *(_streaming_model_folder(deployment, kind) for kind in streaming_models)]
    removed, other_notes = _unwanted(deployment)
    report("writing the repository")
    if options.dry_run:
        written, *streaming_written = compare(folders, force=options.force)
    else:
        written, *streaming_written = write(folders, removed, force=options.force)
    notes = (*layout_notes, *length_notes, *idle_notes, *gpu_notes, *python_notes, *other_notes)
    return Build(
        deployment=deployment,
        checkpoint=checkpoint,
        layout=layout,
        files=folders[0].files,
        written=written,
        streaming_models=dict(zip(streaming_models, streaming_written, strict=True)),
        removed=tuple(removed),
        dry_run=options.dry_run,
        sizing=sizes,
        notes=(*notes, *_surroundings(options, deployment)),
    )


def _fit(options: BuildOptions, settings: Settings, checkpoint: Checkpoint, layout: Layout) -> tuple[Sizing, list[str]]:
    """Return the predicted GPU memory and notes; refuse a deployment that the GPU cannot hold."""
    given, notes = options.gpu_memory_gib, []
    try:
        size = gpu.memory() if given is None else int(given * memory.GIB)
    except gpu.NoAnswerError as error:
        size, notes = None, [f"{error}; write --gpu-memory-gib to learn whether the model fits."]
    where = "This machine's GPUs have" if given is None else "--gpu-memory-gib says"
    sizes = sizing.predict(checkpoint, layout, settings, size)
    sizing.require_fit(sizes, checkpoint, layout, settings, where)
    return sizes, notes


def _model_folder(deployment: Deployment) -> Folder:
    return _folder(deployment, deployment.model_folder, render(deployment), lambda config: validate(config, deployment))


def _streaming_model_folder(deployment: Deployment, kind: StreamingKind) -> Folder:
    files = render_streaming_model(deployment, kind)
    return _folder(
        deployment,
        deployment.streaming_model_folder(kind),
        files,
        lambda config: validate_streaming_model(config, deployment, kind),
    )


def _folder(deployment: Deployment, path: Path, files: Files, check: Callable[[str], None]) -> Folder:
    check(files[CONFIG].decode())  # a dry run refuses what a build would
    return Folder(
        path=path,
        version=deployment.model_version,
        files=files,
        check=lambda staged: check((staged / CONFIG).read_text(encoding="utf-8")),
    )


def _unwanted(deployment: Deployment) -> tuple[list[Path], list[str]]:
    """Return the streaming models' folders to remove, and a note for each folder that belongs to another model."""
    model = deployment.model_name
    folders = [
        deployment.streaming_model_folder(kind) for kind, wanted in deployment.streaming_models.items() if not wanted
    ]
    with writing(deployment.model_repository):
        streaming_models = [folder for folder in folders if ownership.is_streaming_model(folder, model)]
        others = [folder for folder in folders if folder not in streaming_models and ownership.is_model(folder)]
    return streaming_models, [
        f"{folder} has the name of a streaming model of {model}, but is another model; it is kept." for folder in others
    ]


def _settings(options: BuildOptions, checkpoint: Checkpoint, layout: Layout, sequence_length: int) -> Settings:
    """Return the settings: options of the same name, the chosen layout, and values that depend on the checkpoint."""
    tokenizer = _existing("tokenizer", options.tokenizer or checkpoint.tokenizer)
    if tokenizer == str(checkpoint.iteration / "tokenizer"):
        tokenizer = ""  # the checkpoint's own, so that it stays right when checkpoint and repository move
    return options.settings(
        **dataclasses.asdict(layout),
        checkpoint=str(checkpoint.iteration),
        checkpoint_kind=checkpoint.kind,
        tokenizer=tokenizer,
        processor=_existing("processor", options.processor_name or checkpoint.processor),
        params_dtype=options.params_dtype or ("bfloat16" if checkpoint.multimodal else checkpoint.dtype),
        legacy_checkpoint=options.legacy_ckpt,
        max_sequence_length=sequence_length,
        multimodal=checkpoint.multimodal,
        allow_image_urls=",".join(_patterns(options.allow_image_urls)),
        rank_python=interpreter.choose(options, checkpoint),
        rendezvous=_meeting_point(options.rendezvous),
    )


def _existing(what: str, name: str) -> str:
    """Return a folder's path as an absolute one, and a name on a hub as it is."""
    path = expanded(name)
    with system_errors(
        RepositoryError, f"The {what} {name} cannot be read", "grant this user access, or write another one"
    ):
        return str(path.absolute()) if name and path.exists() else name


def _patterns(hosts: list[str] | None) -> list[str]:
    for host in hosts or []:
        if not image_urls.is_pattern(host):
            raise RepositoryError(
                f"--allow-image-urls {host!r} is no host; write its name, such as a.example.org or *.example.org, "
                "without scheme and path."
            )
    return hosts or []


def _meeting_point(rendezvous: str) -> str:
    # Of torchrun's forms (torch 2.11, elastic/rendezvous/utils.py), those with a port and a name or an IPv4 address:
    # the model's stub listens on the same host.
    found = re.fullmatch(r"[\w.-]+:([0-9]{1,5})", rendezvous)
    if rendezvous and not (found and 0 < int(found[1]) < 2**16):
        raise RepositoryError(
            f"--rendezvous {rendezvous} is no place where nodes can meet; write HOST:PORT, such as node0:29500."
        )
    return rendezvous


def _surroundings(options: BuildOptions, deployment: Deployment) -> list[str]:
    """Return notes on what may surprise when the model is served."""
    notes = []
    if options.num_nodes > 1 and not options.rendezvous:
        notes.append(f"{options.num_nodes} nodes have to meet: write --rendezvous HOST:PORT, the first node's address.")
    others = [
        int(path.name)
        for path in deployment.model_folder.glob("[1-9]*")
        if path.name.isdigit() and path.is_dir() and int(path.name) != deployment.model_version
    ]
    if others:
        newest = max(deployment.model_version, *others)
        notes.append(
            f"Triton serves the newest version, {newest}, and config.pbtxt now holds the settings of version "
            f"{deployment.model_version} for all of them."
        )
    return notes
