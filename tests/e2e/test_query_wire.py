"""The query classes and `trgen query` over the wire: tritonserver with a small model that tells what it was sent."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch, ServerFailedError
from trition_repo_gen.errors import QueryError
from trition_repo_gen.server import Server, free_ports, running_server

INPUTS = {
    "prompts": "STRING",
    "max_length": "INT64",
    "top_k": "INT64",
    "top_p": "FP32",
    "temperature": "FP32",
    "random_seed": "INT64",
    "repetition_penalty": "FP32",
    "stop_words": "STRING",
    "compute_logprob": "BOOL",
    "n_top_logprobs": "INT64",
    "apply_chat_template": "BOOL",
    "echo": "BOOL",
    "use_greedy": "BOOL",
}
OUTPUTS = {
    "sentences": "STRING",
    "log_probs": "FP32",
    "top_logprobs": "STRING",
    "log_probs_lengths": "INT64",
    "finish_reason": "STRING",
    "prompt_tokens": "INT64",
    "completion_tokens": "INT64",
}

# A sequence's answer is the JSON of what the sequence had; its tokens are the prompt's bytes.
MODEL = """
import json
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.inputs = [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                tensors[name] = tensor.as_numpy()[:, 0].tolist()
        prompts = tensors["prompts"]
        if prompts[0] == b"refuse":
            return error("prompts has a text that is refused.", pb_utils.TritonError.INVALID_ARG)
        if prompts[0] == b"fail":
            return error("Rank 1 died.", pb_utils.TritonError.INTERNAL)
        if prompts[0] == b"slow":
            time.sleep(3)
        sequences = [
            {name: plain(values[sequence]) for name, values in tensors.items()} for sequence in range(len(prompts))
        ]
        longest = max(len(prompt) for prompt in prompts)
        log_probs = np.zeros((len(prompts), longest), np.float32)
        for sequence, prompt in enumerate(prompts):
            log_probs[sequence, : len(prompt)] = -0.5
        wanted = {
            "sentences": texts(b"\\xff cut" if prompt == b"cut" else json.dumps(sequence).encode()
                               for prompt, sequence in zip(prompts, sequences)),
            "finish_reason": texts(b"stop" for _ in prompts),
            "prompt_tokens": numbers(len(prompt) for prompt in prompts),
            "completion_tokens": numbers(7 for _ in prompts),
            "log_probs": log_probs,
            "log_probs_lengths": numbers(len(prompt) for prompt in prompts),
            "top_logprobs": texts(json.dumps([{"a": -0.5}] * len(prompt)).encode() for prompt in prompts),
            "requested": None,
        }
        if prompts[0] == b"requested":
            wanted["sentences"] = texts([json.dumps(sorted(request.requested_output_names())).encode()])
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, wanted[name]) for name in request.requested_output_names()]
        )

def plain(value):
    return value.decode() if isinstance(value, bytes) else value

def texts(values):
    return np.array([[value] for value in values], dtype=object)

def numbers(values):
    return np.array([[value] for value in values], dtype=np.int64)

def error(text, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
"""


def tensors(names: dict[str, str], optional: bool) -> str:
    return ", ".join(
        f'{{ name: "{name}", data_type: TYPE_{kind}, dims: [ {-1 if name == "log_probs" else 1} ]'
        f"{', optional: true' if optional and name != 'prompts' else ''} }}"
        for name, kind in names.items()
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    version = repository / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (repository / "echo" / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 4\ninstance_group [ { count: 1, kind: KIND_CPU } ]\n'
        f"input [ {tensors(INPUTS, True)} ]\noutput [ {tensors(OUTPUTS, False)} ]\n"
    )
    http, grpc, metrics = free_ports(3)
    with running_server(repository, http_port=http, grpc_port=grpc, metrics_port=metrics) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(server: Server, request: pytest.FixtureRequest) -> str:
    return f"http://{server.http_url}" if request.param == "http" else f"grpc://{server.grpc_url}"


@pytest.fixture
def client(url: str) -> Iterator[LLMClient]:
    with LLMClient(url, "echo") as connection:
        connection.wait_ready(30)
        yield connection


def test_only_the_prompt_is_sent_unless_more_is_said(client: LLMClient) -> None:
    (answer,) = client.infer(["Grüße, 世界"], temperature=None)
    assert json.loads(answer.text) == {"prompts": "Grüße, 世界"}
    assert answer.finish_reason == "stop"
    assert answer.prompt_tokens == len("Grüße, 世界".encode())
    assert answer.completion_tokens == 7
    assert answer.log_probs is None
    assert answer.top_logprobs is None


def test_parameters_are_per_sequence(client: LLMClient) -> None:
    first, second = client.infer(
        ["a", "b"],
        max_length=[3, 4],
        top_k=5,
        top_p=[0.5, 0.25],
        temperature=0,
        random_seed=2**62,
        repetition_penalty=1.5,
        use_greedy=[True, False],
        echo=True,
        stop_words=[["x"], []],
    )
    shared = {"top_k": 5, "temperature": 0.0, "random_seed": 2**62, "repetition_penalty": 1.5, "echo": True}
    sequence = {"prompts": "a", "max_length": 3, "top_p": 0.5, "use_greedy": True, "stop_words": '["x"]'}
    assert json.loads(first.text) == shared | sequence
    sequence = {"prompts": "b", "max_length": 4, "top_p": 0.25, "use_greedy": False, "stop_words": "[]"}
    assert json.loads(second.text) == shared | sequence


def test_one_list_of_stop_words_holds_for_all_sequences(client: LLMClient) -> None:
    answers = client.infer(["a", "b"], stop_words=["\n", "ende"])
    assert [json.loads(answer.text)["stop_words"] for answer in answers] == ['["\\n", "ende"]'] * 2


def test_log_probabilities_have_each_sequences_length(client: LLMClient) -> None:
    short, long = client.infer(["ab", "abcde"], compute_logprob=True, n_top_logprobs=1)
    assert short.log_probs == (-0.5, -0.5)
    assert long.log_probs == (-0.5,) * 5
    assert short.top_logprobs == [{"a": -0.5}] * 2


def test_conversations_go_as_json(client: LLMClient) -> None:
    messages = [{"role": "user", "content": "Grüße"}]
    (answer,) = client.infer([messages], apply_chat_template=True)
    assert json.loads(json.loads(answer.text)["prompts"]) == messages


def test_text_that_ends_within_a_character(client: LLMClient) -> None:
    assert client.infer(["cut"])[0].text == "\ufffd cut"


@pytest.mark.parametrize(
    ("parameters", "outputs"),
    [
        ({}, ["sentences"]),
        ({"compute_logprob": True}, ["log_probs", "sentences"]),
        ({"compute_logprob": False, "n_top_logprobs": 2}, ["sentences", "top_logprobs"]),
    ],
)
def test_the_query_class_asks_for_no_more_than_it_returns(
    url: str, parameters: dict[str, Any], outputs: list[str]
) -> None:
    answer = NemoQueryLLMPyTorch(url, "echo").query_llm(["requested"], **parameters)
    assert json.loads(answer["choices"][0]["text"][0, 0]) == outputs


def test_the_query_class_answers_as_nemos(url: str) -> None:
    answer = NemoQueryLLMPyTorch(url=url, model_name="echo").query_llm(
        prompts=["a", "bcd"],
        use_greedy=True,
        temperature=0.5,
        top_k=1,
        top_p=0.0,
        repetition_penalty=1.0,
        add_BOS=False,
        compute_logprob=True,
        end_strings=["x"],
        stop_words=["y"],
        max_length=9,
        n_top_logprobs=2,
    )
    assert sorted(answer) == ["choices", "created", "id", "model", "object"]
    assert answer["id"] == f"cmpl-{answer['created']}"
    assert answer["object"] == "text_completion"
    assert answer["model"] == "echo"
    (choice,) = answer["choices"]
    assert choice["text"].shape == (2, 1)
    assert choice["text"].dtype.kind == "U"
    sequence = json.loads(choice["text"][1, 0])
    assert sequence.pop("stop_words") == '["x", "y"]'
    assert sequence == {
        "prompts": "bcd",
        "use_greedy": True,
        "temperature": 0.5,
        "top_k": 1,
        "top_p": 0.0,
        "repetition_penalty": 1.0,
        "compute_logprob": True,
        "max_length": 9,
        "n_top_logprobs": 2,
    }
    np.testing.assert_array_equal(choice["logprobs"]["token_logprobs"], [[-0.5, 0, 0], [-0.5, -0.5, -0.5]])
    assert choice["logprobs"]["top_logprobs"] == [[{"a": -0.5}], [{"a": -0.5}] * 3]


def test_top_p_alone_is_not_greedy(url: str) -> None:
    answer = NemoQueryLLMPyTorch(url, "echo").query_llm("a", top_p=0.5)
    assert json.loads(answer["choices"][0]["text"][0, 0]) == {"prompts": "a", "top_p": 0.5, "top_k": 0}


def test_a_refused_request(client: LLMClient) -> None:
    with pytest.raises(
        QueryError, match=r"^The server refused the request: prompts has a text that is refused\.$"
    ) as refused:
        client.infer(["refuse"])
    assert not isinstance(refused.value, ServerFailedError)


def test_too_many_sequences(client: LLMClient) -> None:
    with pytest.raises(QueryError, match=r"^The server refused the request: inference request batch-size must be <= 4"):
        client.infer(["a"] * 5)


def test_a_server_that_fails(client: LLMClient) -> None:
    with pytest.raises(ServerFailedError, match=r"^The server failed: Rank 1 died\.$"):
        client.infer(["fail"])


def test_an_answer_that_takes_too_long(url: str) -> None:
    with LLMClient(url, "echo", timeout=0.5) as client:
        client.wait_ready(30)
        with pytest.raises(ServerFailedError, match=r"^Waited 0\.5 s for an answer of model echo at "):
            client.infer(["slow"])


def test_a_model_that_the_server_does_not_have(url: str) -> None:
    with LLMClient(url, "lama") as client, pytest.raises(QueryError, match="has no model 'lama'; it has echo"):
        client.wait_ready(60)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_ports(1)[0]}"
    expected = rf"^Waited 0\.2 s for a Triton server at {url} to answer \("
    with LLMClient(url, "echo") as client, pytest.raises(ServerFailedError, match=expected):
        client.wait_ready(0.2)


@pytest.mark.parametrize(
    ("scheme", "port", "sentence"),
    [
        ("http", "grpc", "speaks gRPC; write grpc://"),
        ("grpc", "http", "is Triton's HTTP endpoint; write http://"),
        ("http", "metrics", r"are Triton's metrics\. Triton's own ports are 8000 for HTTP and 8001 for gRPC"),
        ("grpc", "metrics", "are Triton's metrics"),
        ("https", "http", "speaks no TLS; write http://"),
    ],
)
def test_another_port(server: Server, scheme: str, port: str, sentence: str) -> None:
    where = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}[port]
    with (
        LLMClient(f"{scheme}://{where}", "echo") as client,
        pytest.raises(QueryError, match=f"^What listens at {where} {sentence}") as caught,
    ):
        client.wait_ready(3600)
        client.infer(["a"])
    assert not isinstance(caught.value, ServerFailedError)


def test_somebody_silent_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        expected = f"for a Triton server at {url} to answer"
        with LLMClient(url, "echo", timeout=0.5) as client, pytest.raises(ServerFailedError, match=expected):
            client.wait_ready(0.2)


def test_a_connection_that_is_closed_instead_of_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        thread = threading.Thread(target=lambda: closing.accept()[0].close())
        thread.start()
        url = f"127.0.0.1:{closing.getsockname()[1]}"
        with (
            LLMClient(url, "echo", timeout=5) as client,
            pytest.raises(ServerFailedError, match="closed the connection"),
        ):
            client.infer(["a"])
        thread.join()


def trgen(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("trgen")), "query", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)


def test_the_command_prints_the_answer(server: Server) -> None:
    done = trgen("-u", str(server.http_url), "-mn", "echo", "-p", "a")
    assert (done.returncode, done.stderr) == (0, "")
    sequence = {"prompts": "a", "max_length": 128, "top_k": 1, "top_p": 0.0, "temperature": 1.0}
    assert json.loads(done.stdout) == sequence


def test_the_command_over_grpc_with_every_flag(server: Server, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("two\nlines\n")
    done = trgen(
        *("--url", str(server.grpc_url), "--grpc", "--model_name", "echo", "--prompt_file", str(prompt)),
        *(
            "--max_output_len",
            "5",
            "-tk",
            "3",
            "-tpp",
            "0.5",
            "-t",
            "0.25",
            "-it",
            "30",
            "-clp",
            "--n-top-logprobs",
            "1",
        ),
        *(
            "--repetition-penalty",
            "1.5",
            "--random-seed",
            "7",
            "--stop",
            "x",
            "--stop",
            "y",
            "--echo",
            "--chat",
            "--json",
        ),
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    sequence = json.loads(document["choices"][0]["text"])
    assert json.loads(sequence.pop("prompts")) == [{"role": "user", "content": "two\nlines"}]
    assert json.loads(sequence.pop("stop_words")) == ["x", "y"]
    numbers = {"max_length": 5, "top_k": 3, "top_p": 0.5, "temperature": 0.25, "repetition_penalty": 1.5}
    assert sequence == numbers | {
        "random_seed": 7,
        "n_top_logprobs": 1,
        "echo": True,
        "compute_logprob": True,
        "apply_chat_template": True,
    }
    tokens = document["usage"]["prompt_tokens"]
    assert document["usage"] == {"prompt_tokens": tokens, "completion_tokens": 7, "total_tokens": tokens + 7}
    assert document["choices"][0]["logprobs"]["token_logprobs"] == [-0.5] * tokens
    assert document["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.5}] * tokens
    assert document["choices"][0]["finish_reason"] == "stop"


def test_the_command_reads_standard_input_and_the_wildcard_means_here(server: Server) -> None:
    port = str(server.http_url).rpartition(":")[2]
    done = trgen("-u", f"0.0.0.0:{port}", "-mn", "echo", "-pf", "-", "-tpp", "0.5", stdin="from a pipe\n")
    sequence = json.loads(done.stdout)
    assert sequence["prompts"] == "from a pipe"
    assert sequence["top_k"] == 0


@pytest.mark.parametrize(("prompt", "code"), [("refuse", 2), ("fail", 1)])
def test_the_commands_exit_code_says_whose_fault_it_was(server: Server, prompt: str, code: int) -> None:
    done = trgen("-u", str(server.http_url), "-mn", "echo", "-p", prompt)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_the_command_says_what_it_waited_for() -> None:
    (port,) = free_ports(1)
    done = trgen("-u", f"127.0.0.1:{port}", "-mn", "echo", "-p", "a", "-it", "0.2")
    assert done.returncode == 1
    assert done.stderr.startswith(f"trgen: Waited 0.2 s for a Triton server at http://127.0.0.1:{port} to answer (")
