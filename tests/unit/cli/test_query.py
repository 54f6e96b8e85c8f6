"""The flags of `trgen query`."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.clients.triton_server import echo_server
from trition_repo_gen.cli import app
from trition_repo_gen.cli import query as module
from trition_repo_gen.cli.query import QueryFlags, document
from trition_repo_gen.clients import Completion
from trition_repo_gen.errors import QueryError


def flags(**values: Any) -> QueryFlags:
    return QueryFlags(model_name="llama", **values)


def test_the_parameters_without_any_flag() -> None:
    parameters = {name: value for name, value in flags().parameters().items() if value is not None}
    assert parameters == {"max_length": 128, "top_k": 1, "top_p": 0.0, "temperature": 1.0}


@pytest.mark.parametrize(
    ("values", "top_k"), [({"top_p": 0.9}, 0), ({"top_p": 0.9, "top_k": 1}, 1), ({"top_k": 0}, 0), ({"top_k": 5}, 5)]
)
def test_top_p_alone_is_not_greedy(values: dict[str, Any], top_k: int) -> None:
    assert flags(**values).parameters()["top_k"] == top_k


@pytest.mark.parametrize(
    ("url", "grpc", "expected"),
    [
        ("a:1", False, "a:1"),
        ("a:1", True, "grpc://a:1"),
        ("grpc://a:1", True, "grpc://a:1"),
        ("grpcs://a:1", True, "grpcs://a:1"),
        ("http://a:1", False, "http://a:1"),
    ],
)
def test_the_address(url: str, grpc: bool, expected: str) -> None:
    assert flags(url=url, grpc=grpc).address() == expected


def test_an_address_that_is_not_grpc() -> None:
    with pytest.raises(QueryError, match="'http://a:1', which is not gRPC; leave out --grpc"):
        flags(url="http://a:1", grpc=True).address()


@pytest.mark.parametrize(
    ("content", "text"), [("a\nb\n", "a\nb"), ("a", "a"), ("a\n\n", "a\n"), ("", ""), ("Grüße", "Grüße")]
)
def test_a_prompt_file(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(content, encoding="utf-8")
    assert flags(prompt_file=file).text() == text


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    assert flags(prompt_file=Path("-")).text() == "from a pipe"


def test_a_prompt_is_taken_as_it_is() -> None:
    assert flags(prompt="a\n").text() == "a\n"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="nowhere' cannot be read"):
        flags(prompt_file=tmp_path / "nowhere").text()
    (tmp_path / "binary").write_bytes(b"ab\xff")
    with pytest.raises(QueryError, match=r"binary' is not UTF-8 text \(byte 2\)"):
        flags(prompt_file=tmp_path / "binary").text()


@pytest.mark.parametrize("line", ["", "-p a -pf b"])
def test_one_prompt_exactly(line: str) -> None:
    result = CliRunner().invoke(app, ["query", "-mn", "llama", *line.split()])
    assert isinstance(result.exception, QueryError)
    assert str(result.exception) == "Write one of --prompt and --prompt-file."


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("-p \udcff", r"^The prompt has '\\udcff', which is not valid Unicode; send text that is\.$"),
        ("-p a -it nan", "^The time to wait is nan s; it has to be between 0 and 1000000000 s"),
        ("-p a --timeout inf", "^The time to wait is inf s; it has to be"),
        ("-p a -u a..b -it 0", r"^The URL 'a\.\.b' cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(line: str, sentence: str) -> None:
    with echo_server() as server:
        command = ["query", "-mn", "echo", "-u", f"grpc://{server.url}", *line.split()]
        result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, QueryError)
    assert re.search(sentence, str(result.exception))


def test_the_model_is_required() -> None:
    assert CliRunner().invoke(app, ["query", "-p", "a"]).exit_code == 2


def test_the_document() -> None:
    plain = document("llama", Completion("Yellow.", "stop", 5, 2))
    assert plain["choices"] == [{"index": 0, "text": "Yellow.", "finish_reason": "stop"}]
    assert plain["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    full = document("llama", Completion("Yellow.", "stop", 5, 2, (-0.5, -1.0), [{"Y": -0.5}, {"e": -1.0}]))
    assert json.loads(json.dumps(full))["choices"][0]["logprobs"] == {
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"Y": -0.5}, {"e": -1.0}],
    }


def test_what_changes_nothing() -> None:
    (note,) = flags(compute_logprob=True, n_top_logprobs=2).without_effect()
    assert note == "--compute-logprob and --n-top-logprobs: only --json shows them."
    assert flags(compute_logprob=True, json_=True).without_effect() == []
    notes = flags(max_batch_size=4, processor_name="Qwen/Qwen2.5-VL-7B-Instruct").without_effect()
    assert [note.split(":")[0] for note in notes] == [
        "--max-batch-size has no effect",
        "--processor-name has no effect",
    ]


def test_pictures() -> None:
    parameters = flags(image=["a.png", "https://b.org/c.png"]).parameters()
    assert (parameters["images"], parameters["max_length"]) == ([["a.png", "https://b.org/c.png"]], 50)
    assert flags(image=["a.png"], max_output_len=7).parameters()["max_length"] == 7


def test_the_flags_of_the_script_that_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        pass

    def parsed(further: Any) -> dict[str, Any]:
        raise ParsedError(further)

    received: list[QueryFlags] = []

    def text(flags: QueryFlags) -> str:
        received.append(flags)
        return ""

    monkeypatch.setattr(QueryFlags, "text", text)
    monkeypatch.setattr(module, "parameters", parsed)
    line = "-u a:1 -mn qwen -pn Qwen/x -p Hi -i a.png -mol 9 -mbs 2 -tk 3 -tpp 0.5 -t 0.7 -rs 0 -it 5 --stream --json"
    result = CliRunner().invoke(app, ["query", *line.split()])
    assert isinstance(result.exception, ParsedError)
    assert result.exception.args[0].random_seed == 0
    assert received == [
        QueryFlags(
            url="a:1",
            model_name="qwen",
            processor_name="Qwen/x",
            prompt="Hi",
            image=["a.png"],
            max_output_len=9,
            max_batch_size=2,
            top_k=3,
            top_p=0.5,
            temperature=0.7,
            init_timeout=5.0,
            stream=True,
            json_=True,
        )
    ]
