"""Write docs/reference/ from the code: command line, tensors, REST service, metrics, config.pbtxt.

    python scripts/make_reference.py [--check]

With --check nothing is written: the exit code is 1 if a page differs from what the code says.
"""

import ast
import dataclasses
import html
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from trition_repo_gen.cli import _flags, app
from trition_repo_gen.cli._options import BUILD
from trition_repo_gen.rest import requests as rest_requests
from trition_repo_gen.rest.app import create_app
from trition_repo_gen.rest.options import RestOptions
from trition_repo_gen.runtime.common import wire
from trition_repo_gen.runtime.common.settings import Settings, StreamSettings

FOLDER = Path(__file__).parents[1] / "docs/reference"
NOTE = "<!-- Written by scripts/make_reference.py. Do not edit: `make reference` replaces it. -->"


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check name those that differ."""
    if unknown := [argument for argument in arguments if argument != "--check"]:
        print(f"{unknown[0]!r} is no option; write --check or nothing.", file=sys.stderr)
        return 2
    stale = [name for name, text in pages().items() if not _is_current(FOLDER / name, text)]
    for name in stale:
        if arguments:
            print(f"docs/reference/{name} differs from the code; run make reference.", file=sys.stderr)
        else:
            (FOLDER / name).write_text(pages()[name])
    return 1 if stale and arguments else 0


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "cli.md": _cli,
        "tensors.md": _tensors,
        "rest.md": _rest,
        "metrics.md": _metrics,
        "config.md": _config,
    }
    return {name: "\n".join([NOTE, "", *make()]).rstrip() + "\n" for name, make in makers.items()}


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


# Command line


def _cli() -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    yield from ("# Command line", "", _sentence(command.help), "")
    yield "Words in a long flag may be joined by `_` instead of `-`. A user's mistake is one sentence and exit code 2."
    yield ""
    yield from _table(
        ["older name", "same as"],
        [[f"`--{old}`", f"`--{new}`"] for old, new in sorted(_flags._OLDER_NAMES.items())],
    )
    for name, subcommand in command.commands.items():
        yield from _command(name, subcommand)


def _command(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=f"trgen {name}")
    yield from (f"## trgen {name}", "", _paragraphs(command.help), "")
    panels: dict[str, list[list[str]]] = {}
    for parameter in command.params:
        record = None if parameter.hidden else parameter.get_help_record(context)
        if record is not None:
            panels.setdefault(parameter.rich_help_panel or "", []).append(_flag(*record))
    for panel, rows in panels.items():
        if panel and len(panels) > 1:
            yield from (f"### {panel} {{ #{_slug(name, panel)} }}", "")
        yield from _table(["flag", "default", "description"], rows)


def _flag(names: str, text: str) -> list[str]:
    """Return a row from what the help prints: names with a metavar, text with `[default: …]` at its end."""
    default = ""
    while match := re.search(r"\s*\[([^\[\]]*)\]$", text):
        text = text[: match.start()]
        parts = [part for part in match[1].split("; ") if not re.search(r"[<>]=?\s*x|x\s*[<>]=?", part)]
        default = re.sub(r"^\((.*)\)$", r"\1", "; ".join(parts).removeprefix("default: ")) or default
    return [_code(names), "required" if default == "required" else _escape(default), _escape(text)]


def _slug(*words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


# config.pbtxt


def _config() -> Iterator[str]:
    yield from ("# config.pbtxt", "")
    yield (
        "config.pbtxt is the only source of run-time settings: edit it and restart tritonserver. Keys are those of "
        "`parameters`; values are strings, `true` and `false` for switches. A missing parameter has its default; an "
        "unknown one is an error. Also safe to edit: `max_batch_size`, the sequences that one request may have."
    )
    yield from ("", "## A model", "")
    yield from _settings(Settings)
    yield from ("## A streaming model", "")
    yield from _settings(StreamSettings)


_FLAG_DEFAULT = re.compile(r"\s*\[default: [^\]]*\]$")


def _settings(settings: type[Any]) -> Iterator[str]:
    owners = [base for base in reversed(settings.__mro__) if dataclasses.is_dataclass(base)]
    described = {name: text for owner in owners for name, text in _descriptions(owner)}
    # What a setting's own docstring does not say, the flag of the same name does.
    flags = {name: _FLAG_DEFAULT.sub("", option.help or "") for name, option in BUILD.flags.items()}
    hints = typing.get_type_hints(settings)
    groups: dict[type[Any], list[list[str]]] = {}
    for field in dataclasses.fields(settings):
        owner = next(owner for owner in owners if field.name in inspect.get_annotations(owner))
        default = "required" if field.default is dataclasses.MISSING else _value(field.default)
        text = described.get(field.name) or flags.get(field.name, "")
        row = [f"`{field.name.upper()}`", _type(hints[field.name]), default, _escape(text)]
        groups.setdefault(owner, []).append(row)
    for owner, rows in groups.items():
        if len(groups) > 1:
            yield from (_escape((owner.__doc__ or "").partition("\n\n")[0]), "")
        yield from _table(["parameter", "type", "default", "description"], rows)


def _descriptions(owner: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of the fields that a class itself declares."""
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, _sentence(text)


def _value(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if text else "empty"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}.get(hint, _escape(str(hint)))


# Metrics


def _metrics() -> Iterator[str]:
    # Triton gives its stubs this module.
    sys.modules.setdefault("triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    from trition_repo_gen.runtime.stub import metrics

    yield from ("# Metrics", "")
    yield (
        "Triton's metrics endpoint (port 8002) has these series beside Triton's own. All have the labels `model` and "
        "`version`. A histogram is three counters, `…_bucket` with the label `le`, `…_sum` and `…_count`."
    )
    yield ""
    rows = [[f"`trgen:{name}`", "gauge", _escape(text)] for name, text in metrics.GAUGES.items()]
    rows += [[f"`trgen:{name}`", "counter", _escape(text)] for name, text in metrics.COUNTERS.items()]
    rows += [[f"`trgen:{name}`", "histogram", _escape(text)] for name, (text, _) in metrics.HISTOGRAMS.items()]
    yield from _table(["name", "type", "description"], rows)
    yield from ("## Buckets", "")
    yield from _table(
        ["histogram", "upper bounds, seconds"],
        [
            [f"`trgen:{name}`", ", ".join(f"{bound:g}" for bound in bounds)]
            for name, (_, bounds) in metrics.HISTOGRAMS.items()
        ],
    )


# REST service


def _rest() -> Iterator[str]:
    guarded: Any = create_app(RestOptions(triton="127.0.0.1:8001", address="127.0.0.1", port=8080))
    schema = guarded._app.openapi()
    schemas = schema.get("components", {}).get("schemas", {})
    yield from ("# REST service", "", "[The guide](../guides/rest.md) has examples, errors and limits.", "")
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield from (f"## {method.upper()} {path}", "", _sentence(operation.get("description", "")), "")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                yield from _fields(_resolve(body, schemas), schemas)
    yield from ("## Types", "")
    shown = ("CompletionRequest", "ChatRequest", "HTTPValidationError", "ValidationError")
    for name, definition in schemas.items():
        if name not in shown and "properties" in definition:
            yield from (f"### {name}", "", _sentence(definition.get("description", "")), "")
            yield from _fields(definition, schemas)


def _fields(definition: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    neutral, tensors = rest_requests._NEUTRAL, {tensor.rest: tensor for tensor in rest_requests.AS_IS}
    required = definition.get("required", [])
    rows, refused, ignored = [], [], []
    for name, field in definition.get("properties", {}).items():
        if name in neutral:
            refused.append(name)
        elif not field.keys() - {"title"} and name not in tensors:
            ignored.append(name)
        else:
            bounds = "; ".join(dict.fromkeys(_bounds(field, schemas)))
            presence = "required" if name in required else ""
            help_ = tensors[name].help if name in tensors else field.get("description", "")
            rows.append([f"`{name}`", _json_type(field, schemas), presence, _escape(bounds), _escape(help_)])
    rows.sort(key=lambda row: row[2] != "required")
    yield from _table(["field", "type", "", "bounds", "description"], rows)
    if refused:
        yield "Refused unless they have a value that changes nothing:"
        yield from ("", *(f"- `{name}`: {_neutral_values(neutral[name])}" for name in refused), "")
    if ignored:
        yield f"Accepted and without effect: {', '.join(f'`{name}`' for name in ignored)}."
        yield ""


def _neutral_values(values: Iterable[Any]) -> str:
    return ", ".join(["null", *(f"`{value!r}`" for value in values)])


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    resolved: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return resolved


def _json_type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return the type of a JSON schema as a reader of the page would say it."""
    if "properties" in (schema := _resolve(schema, schemas)):
        name = schema["title"]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        names = [_json_type(choice, schemas) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(names))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_json_type(schema['items'], schemas)}"
    return str(schema.get("type", "any"))


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "elements: at least {}",
    "maxItems": "elements: at most {}",
    "pattern": "matches `{}`",
}


def _bounds(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield the bounds of a field, of its alternatives and of its elements."""
    schema = _resolve(schema, schemas)
    if found := [text.format(_number(schema[key])) for key, text in _BOUNDS.items() if key in schema]:
        yield ", ".join(found)
    for part in [*schema.get("anyOf", []), *([schema["items"]] if isinstance(schema.get("items"), dict) else [])]:
        yield from _bounds(part, schemas)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# Tensors


def _tensors() -> Iterator[str]:
    yield from ("# Tensors", "")
    yield (
        "The first dimension is the batch: send `(N, 1)`. Every value belongs to its own sequence. The streaming model "
        f"`NAME{wire.STREAM_SUFFIX}` has the same tensors and takes one sequence per request. Requests may also have "
        f"the parameter `{wire.PRIORITY_PARAMETER}`; [Requests](../concepts/requests.md) describes it."
    )
    yield from ("", "## Inputs", "")
    yield from _table(
        ["input", "type", "default", "bounds", "description"],
        [
            [
                f"`{tensor.name}`",
                tensor.datatype,
                _tensor_default(tensor),
                "" if tensor.ignored else _escape(tensor.bounds),
                _input_help(tensor),
            ]
            for tensor in wire.INPUTS
        ],
    )
    yield from ("## Outputs", "")
    yield from _output_table(wire.OUTPUTS)
    yield from ("## Names in REST and TensorRT-LLM", "")
    yield from _table(
        ["input", "REST field", f"input of `NAME{wire.TRTLLM_SUFFIX}`"],
        [
            [f"`{tensor.name}`", f"`{tensor.rest}`" if tensor.rest else "", _alias(tensor.trtllm)]
            for tensor in wire.INPUTS
            if tensor.rest or tensor.trtllm
        ],
    )
    yield from (f"## Tensors of NAME{wire.TRTLLM_SUFFIX}", "", "Written by `trgen build --trtllm-alias`.", "")
    yield from _table(["input", "type"], [[f"`{alias.name}`", alias.datatype] for alias, _ in wire.TRTLLM_INPUTS])
    yield from _output_table(wire.TRTLLM_OUTPUTS)


def _tensor_default(tensor: wire.Input) -> str:
    if tensor is wire.PROMPTS:
        return "required"
    if tensor.default is None:
        return ""
    text = _value(tensor.default)
    return text if tensor.multimodal_default is None else f"{text}; multimodal {_value(tensor.multimodal_default)}"


def _input_help(tensor: wire.Input) -> str:
    prefix = "Multimodal models. " if tensor.multimodal_only else "JSON. " if isinstance(tensor, wire.Json) else ""
    return _escape(prefix + tensor.help)


def _output_table(outputs: Iterable[wire.Output]) -> Iterator[str]:
    yield from _table(
        ["output", "type", "description"],
        [[f"`{tensor.name}`", tensor.datatype, _escape(tensor.help)] for tensor in outputs],
    )


def _alias(alias: wire.Alias | None) -> str:
    return "" if alias is None else f"`{alias.name}`"


# Markdown


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(_sentence(part) for part in re.split(r"\n\s*\n", text or ""))


def _code(text: str) -> str:
    # A bar ends a table's cell; within backticks GitHub and MkDocs do not agree on how to escape it.
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _escape(text: str) -> str:
    """Escape what Markdown would take as a table's or an emphasis' mark."""
    parts = re.split(r"`([^`]*)`", _sentence(text))
    marks = {"|": "&#124;", "<": "&lt;", "*": r"\*", "_": r"\_"}
    return "".join(
        _code(part) if index % 2 else re.sub(r"[|<*_]", lambda mark: marks[mark[0]], part)
        for index, part in enumerate(parts)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
