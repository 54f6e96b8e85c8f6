"""`trgen query`: send a prompt to a served model and print the answer."""

import json
import sys
import time
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import Option

from trition_repo_gen.cli._flags import FlagGroup, takes
from trition_repo_gen.errors import QueryError
from trition_repo_gen.runtime.common import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trition_repo_gen.clients import Completion

_NEW_TOKENS = 128
_NEW_TOKENS_ABOUT_IMAGES = wire.BY_NAME["max_length"].multimodal_default

_SAMPLING = "How the answer is chosen"
_OUTPUT = "What is printed"


@dataclass(frozen=True, kw_only=True)
class QueryFlags:
    """What the command line says about a query."""

    model_name: str
    url: str = "0.0.0.0"
    grpc: bool = False
    prompt: str | None = None
    prompt_file: Path | None = None
    image: list[str] | None = None
    chat: bool = False
    max_output_len: int | None = None
    top_k: int | None = None
    top_p: float = 0.0
    temperature: float = 1.0
    stop: list[str] | None = None
    processor_name: str | None = None
    max_batch_size: int | None = None
    init_timeout: float = 60.0
    timeout: float = 600.0
    echo: bool = False
    compute_logprob: bool = False
    n_top_logprobs: int | None = None
    json_: bool = False
    stream: bool = False

    def address(self) -> str:
        """Return the URL with the protocol that was asked for.

        Raises:
            QueryError: the URL names another one.
        """
        if not self.grpc or self.url.startswith(("grpc://", "grpcs://")):
            return self.url
        if "://" in self.url:
            raise QueryError(f"--url is {self.url!r}, which is not gRPC; leave out --grpc, or write grpc://HOST:PORT.")
        return f"grpc://{self.url}"

    def text(self) -> str:
        """Return the prompt.

        Raises:
            QueryError: there is none, there are two, or the file cannot be read.
        """
        if self.prompt is not None and self.prompt_file is None:
            return self.prompt
        if self.prompt is not None or self.prompt_file is None:
            raise QueryError("Write one of --prompt and --prompt-file.")
        try:
            data = sys.stdin.buffer.read() if str(self.prompt_file) == "-" else self.prompt_file.read_bytes()
            # The end of a file's last line is the editor's, not the prompt's.
            return data.decode().removesuffix("\n")
        except OSError as error:
            raise QueryError(f"--prompt-file {str(self.prompt_file)!r} cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError as error:
            raise QueryError(
                f"--prompt-file {str(self.prompt_file)!r} is not UTF-8 text (byte {error.start})."
            ) from None

    def parameters(self) -> dict[str, Any]:
        """Return what the client takes besides the prompt."""
        top_k = self.top_k
        if top_k is None:
            top_k = 0 if self.top_p else 1
        max_length = self.max_output_len
        if max_length is None:
            max_length = _NEW_TOKENS_ABOUT_IMAGES if self.image else _NEW_TOKENS
        return {
            "images": [self.image] if self.image else None,
            "max_length": max_length,
            "top_k": top_k,
            "top_p": self.top_p,
            "temperature": self.temperature,
            "stop_words": self.stop or None,
            "echo": self.echo or None,
            "apply_chat_template": self.chat or None,
            "compute_logprob": self.compute_logprob or None,
            "n_top_logprobs": self.n_top_logprobs,
        }

    def without_effect(self) -> list[str]:
        """Return a sentence for each flag that was given and changes nothing."""
        notes = []
        logprobs = (("--compute-logprob", self.compute_logprob), ("--n-top-logprobs", self.n_top_logprobs))
        if not self.json_ and (given := [flag for flag, value in logprobs if value]):
            notes.append(f"{' and '.join(given)}: only --json shows them.")
        if self.max_batch_size is not None:
            notes.append("--max-batch-size has no effect: the engine forms its batch anew at every step.")
        if self.processor_name is not None:
            notes.append("--processor-name has no effect: the server's own processor prepares prompt and images.")
        return notes


QUERY = FlagGroup(
    QueryFlags,
    {
        "model_name": Option("--model-name", "-mn", help="The model's name in Triton."),
        "url": Option("--url", "-u", help="HOST, HOST:PORT, http://HOST:PORT or grpc://HOST:PORT."),
        "grpc": Option("--grpc", help="Speak gRPC; the port is 8001 unless given."),
        "prompt": Option("--prompt", "-p", help="The prompt."),
        "prompt_file": Option("--prompt-file", "-pf", help="A file with the prompt; - is standard input."),
        "image": Option(
            "--image",
            "-i",
            metavar="PATH|URL",
            help="An image that the prompt is about, read or fetched here; may be given several times.",
        ),
        "chat": Option("--chat", help="Send the prompt as a user's message, through the model's chat template."),
        "max_output_len": Option(
            "--max-output-len",
            "-mol",
            min=0,
            help="Most new tokens; 0 only with --echo and log-probabilities. [default: 128; with --image, 50]",
        ),
        "top_k": Option(
            "--top-k",
            "-tk",
            help="Sample from the k most likely tokens; 0 is no limit. [default: 1; with --top-p, 0]",
            show_default=False,
            rich_help_panel=_SAMPLING,
        ),
        "top_p": Option(
            "--top-p",
            "-tpp",
            help="Sample from the tokens with this probability together; 0 is no limit.",
            rich_help_panel=_SAMPLING,
        ),
        "temperature": Option("--temperature", "-t", help="0 is greedy.", rich_help_panel=_SAMPLING),
        "stop": Option(
            "--stop", help="A text that ends the answer; may be given several times.", rich_help_panel=_SAMPLING
        ),
        "processor_name": Option("--processor-name", "-pn", metavar="NAME", help="Accepted: has no effect."),
        "max_batch_size": Option("--max-batch-size", "-mbs", metavar="N", help="Accepted: has no effect."),
        "init_timeout": Option("--init-timeout", "-it", help="Seconds to wait for the server and the model."),
        "timeout": Option("--timeout", help="Seconds to wait for the answer."),
        "echo": Option("--echo", help="Begin the answer with the prompt.", rich_help_panel=_OUTPUT),
        "compute_logprob": Option(
            "--compute-logprob", "-clp", help="With --json: log-probabilities.", rich_help_panel=_OUTPUT
        ),
        "n_top_logprobs": Option(
            "--n-top-logprobs", help="With --json: that many most likely tokens.", rich_help_panel=_OUTPUT
        ),
        "stream": Option("--stream", help="Print the answer as it grows.", rich_help_panel=_OUTPUT),
        "json_": Option("--json", help="Print one JSON document, as OpenAI's completions.", rich_help_panel=_OUTPUT),
    },
)


_OWN_FLAGS = {
    *("prompts", "images", "max_length", "top_k", "top_p", "temperature", "use_greedy", "stop_words", "echo"),
    *("apply_chat_template", "compute_logprob", "n_top_logprobs", "max_batch_size"),
}
"""Inputs whose flags `QueryFlags` has, under other names or with a meaning of their own."""
_SHORT_FLAGS = {"random_seed": ("-rs",)}
_PARAMETERS = {tensor.name: tensor for tensor in wire.INPUTS if tensor.name not in _OWN_FLAGS}


def _type(tensor: wire.Input) -> Any:
    return (int if isinstance(tensor, wire.Integer) else float if isinstance(tensor, wire.Number) else str) | None


PARAMETERS = FlagGroup(
    make_dataclass("ParameterFlags", [(name, _type(tensor), None) for name, tensor in _PARAMETERS.items()]),
    {
        name: Option(
            f"--{name.replace('_', '-')}",
            *_SHORT_FLAGS.get(name, ()),
            help=tensor.help,
            metavar="JSON" if isinstance(tensor, wire.Json) else None,
            rich_help_panel=_SAMPLING,
        )
        for name, tensor in _PARAMETERS.items()
    },
)
"""A flag for each further input of the wire."""


def parameters(flags: Any) -> dict[str, Any]:
    """Return what the client takes of the flags in `PARAMETERS`.

    Raises:
        QueryError: a value is not JSON where it has to be.
    """
    return {name: _parse(tensor, getattr(flags, name)) for name, tensor in _PARAMETERS.items()}


def _parse(tensor: wire.Input, value: Any) -> Any:
    if value is None or not isinstance(tensor, wire.Json):
        return value
    try:
        document = json.loads(value)
    except ValueError as error:
        raise QueryError(f"--{tensor.name.replace('_', '-')} is {value!r}, which is not JSON: {error}.") from None
    return document


def register(app: typer.Typer) -> None:
    """Add the command to `trgen`."""
    app.command("query")(query)


@takes(QUERY, PARAMETERS)
def query(flags: QueryFlags, further: Any) -> None:
    """Send a prompt to a served model and print the answer.

    A refused request ends with exit code 2, a server that fails or does not answer in time with 1.
    """
    from trition_repo_gen.clients import LLMClient, ServerFailedError

    text = flags.text()
    values = flags.parameters() | parameters(further)
    for note in flags.without_effect():
        typer.echo(f"note: {note}", err=True)
    try:
        with LLMClient(flags.address(), flags.model_name, timeout=flags.timeout) as client:
            client.wait_ready(flags.init_timeout)
            prompt = [{"role": "user", "content": text}] if flags.chat else text
            if flags.stream:
                completion = _print_stream(client.stream(prompt, **values), quiet=flags.json_)
            else:
                (completion,) = client.infer([prompt], **values)
    except ServerFailedError as error:
        typer.echo(f"trgen: {error}", err=True)
        raise typer.Exit(1) from None
    if flags.json_:
        typer.echo(json.dumps(document(flags.model_name, completion), ensure_ascii=False))
    elif not flags.stream:
        typer.echo(completion.text)


def _print_stream(pieces: "Iterator[str | Completion]", *, quiet: bool) -> "Completion":
    """Print text as it comes; return the whole answer."""
    for piece in pieces:
        if not isinstance(piece, str):
            completion = piece
        elif not quiet:
            typer.echo(piece, nl=False)
    if not quiet:
        typer.echo()
    return completion


def document(model: str, completion: "Completion") -> dict[str, Any]:
    """Return the answer in the shape of OpenAI's `/v1/completions`."""
    created = int(time.time())
    choice: dict[str, Any] = {"index": 0, "text": completion.text, "finish_reason": completion.finish_reason}
    logprobs = {"token_logprobs": completion.log_probs, "top_logprobs": completion.top_logprobs}
    if any(value is not None for value in logprobs.values()):
        choice["logprobs"] = {name: value for name, value in logprobs.items() if value is not None}
    return {
        "id": f"cmpl-{created}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    }
