"""Every kind of client that the documentation names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tritonclient.grpc

from tests.e2e.resting import rest_service
from tests.e2e.serving import PROMPTS, Serving
from trition_repo_gen.clients import NemoQueryLLMPyTorch

BANANA = PROMPTS[0]


def test_grpc(llama: Serving) -> None:
    client = tritonclient.grpc.InferenceServerClient(llama.server.grpc_url)
    tensor = tritonclient.grpc.InferInput("prompts", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[prompt.encode()] for prompt in PROMPTS[:2]], dtype=np.object_))

    sentences = client.infer(llama.model, [tensor]).as_numpy("sentences")

    assert [sequence.decode() for sequence in sentences[:, 0]] == llama.ask(PROMPTS[:2]).sentences


def test_generate_endpoint_by_curl(llama: Serving) -> None:
    body = json.dumps({"prompts": BANANA, "max_length": 20})

    answer = subprocess.run(
        ["curl", "-sf", "-d", body, f"http://{llama.http}/v2/models/{llama.model}/generate"],
        stdout=subprocess.PIPE,
        check=True,
    )

    assert json.loads(answer.stdout)["sentences"] == llama.ask(BANANA, max_length=20).sentences[0]


def test_only_asked_for_outputs_are_sent(llama: Serving) -> None:
    client = tritonclient.grpc.InferenceServerClient(llama.server.grpc_url)
    tensor = tritonclient.grpc.InferInput("prompts", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[BANANA.encode()]], dtype=np.object_))

    result = client.infer(llama.model, [tensor], outputs=[tritonclient.grpc.InferRequestedOutput("finish_reason")])

    assert [output.name for output in result.get_response().outputs] == ["finish_reason"]
    assert result.as_numpy("finish_reason").tolist() == [[b"stop"]]


def test_query_class(llama: Serving) -> None:
    output = NemoQueryLLMPyTorch(url=llama.http, model_name=llama.model).query_llm(
        prompts=PROMPTS[:2],
        max_length=32,
        top_k=1,
        top_p=0.0,
        temperature=1.0,
        use_greedy=True,
        repetition_penalty=1.0,
        compute_logprob=True,
        n_top_logprobs=2,
    )

    assert output["object"] == "text_completion"
    assert output["model"] == llama.model
    choice = output["choices"][0]
    reply = llama.ask(PROMPTS[:2], max_length=32, compute_logprob=True, n_top_logprobs=2)
    assert [sequence[0] for sequence in choice["text"]] == reply.sentences
    # Sequences that join the batch at other steps differ in the last bits.
    assert choice["logprobs"]["token_logprobs"][0][: len(reply.log_probs[0])] == pytest.approx(
        reply.log_probs[0], abs=1e-3
    )
    for tops, expected in zip(choice["logprobs"]["top_logprobs"], reply.top_logprobs, strict=True):
        assert tops == [pytest.approx(token, abs=1e-3) for token in expected]


def test_pytriton_client(llama: Serving) -> None:
    """Programs written for NeMo Export-Deploy talk through PyTriton's ModelClient."""
    pytriton = pytest.importorskip("pytriton.client")

    prompts = np.array([[prompt.encode()] for prompt in PROMPTS[:2]], dtype=np.bytes_)
    inputs: dict[str, Any] = {
        "prompts": prompts,
        "max_length": np.full(prompts.shape, 32, dtype=np.int_),
        "top_k": np.full(prompts.shape, 1, dtype=np.int_),
        "top_p": np.full(prompts.shape, 0.0, dtype=np.single),
        "temperature": np.full(prompts.shape, 1.0, dtype=np.single),
        "use_greedy": np.full(prompts.shape, True, dtype=np.bool_),
        "repetition_penalty": np.full(prompts.shape, 1.0, dtype=np.single),
        "apply_chat_template": np.full(prompts.shape, False, dtype=np.bool_),
    }
    for url in (llama.http, f"grpc://{llama.server.grpc_url}"):
        with pytriton.ModelClient(url, llama.model, init_timeout_s=60) as client:
            result = client.infer_batch(**inputs)
            assert client.model_config.outputs[0].dtype == np.bytes_

        sentences = np.char.decode(result["sentences"].astype("bytes"), "utf-8")
        assert sentences[:, 0].tolist() == llama.ask(PROMPTS[:2], max_length=32).sentences
        assert "log_probs" not in result


def test_trgen_query(llama: Serving) -> None:
    trgen = Path(sys.executable).with_name("trgen")
    expected = llama.ask(BANANA, max_length=128).sentences[0]

    plain = subprocess.run(
        [trgen, "query", "-u", llama.http, "-mn", llama.model, "-p", BANANA], capture_output=True, text=True, check=True
    )
    document = subprocess.run(
        [trgen, "query", "-u", llama.http, "-mn", llama.model, "-p", BANANA, "-clp", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert plain.stdout.strip() == expected.strip()
    assert expected.strip() in json.dumps(json.loads(document.stdout), ensure_ascii=False)


def generate(serving: Serving, model: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Return status and document, of a stream its first event."""
    request = Request(f"http://{serving.http}/v2/models/{model}", json.dumps(body).encode())
    try:
        with urlopen(request) as response:
            return response.status, json.loads(response.readline().removeprefix(b"data: "))
    except HTTPError as error:
        return error.code, json.loads(error.read().strip().removeprefix(b"data:"))


GENERATE = ("llama/generate", "llama_stream/generate_stream")


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"max_tokens": 3}, "There is no parameter 'max_tokens'; write 'max_length'."),
        ({"temprature": 0.5}, "There is no parameter 'temprature'; write 'temperature'."),
        ({"stop": "x"}, "There is no parameter 'stop'; write 'stop_words'."),
        ({"parameters": {"max_tokens": 3}}, "There is no parameter 'max_tokens'; write 'max_length'."),
        ({"images": "AA=="}, "This model has no input 'images'; leave it out."),
    ],
)
def test_generate_refuses_what_nothing_reads(llama: Serving, path: str, body: dict[str, Any], sentence: str) -> None:
    status, answer = generate(llama, path, {"prompts": BANANA} | body)
    assert (status, answer["error"]) == (400, sentence)


def test_the_alias_refuses_what_nothing_reads(llama: Serving) -> None:
    body = {"text_input": BANANA, "max_length": 3}
    status, answer = generate(llama, "llama_trtllm/generate_stream", body)
    assert (status, answer["error"]) == (400, "There is no parameter 'max_length'; write 'max_tokens'.")


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("words", [["ten, eleven"], ["never said", "ten, eleven"], '["ten, eleven"]', "ten, eleven"])
def test_stop_words_in_generate(llama: Serving, path: str, words: Any) -> None:
    body = {"prompts": "Count from one to fifty.", "max_length": 600, "id": "7", "queue_priority": 1}
    pieces = generate(llama, path, body | {"stop_words": words})
    assert pieces[0] == 200
    if path == GENERATE[0]:
        assert pieces[1]["sentences"].endswith("nine, ")
        assert pieces[1]["finish_reason"] == "stop"
        assert generate(llama, path, body | {"stop_words": []})[1]["sentences"].startswith(pieces[1]["sentences"] + "t")


def query(*arguments: str) -> tuple[int, str, str]:
    command = [str(Path(sys.executable).with_name("trgen")), "query", "-p", BANANA, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("grpc", [False, True])
def test_the_streaming_models_name(llama: Serving, grpc: bool) -> None:
    url = f"grpc://{llama.server.grpc_url}" if grpc else llama.http
    told = (
        "trgen: 'llama_stream' is the streaming model of 'llama'; name 'llama', and for text as it grows write --stream"
    )
    code, out, error = query("-u", url, "-mn", "llama_stream")
    assert (code, out, error) == (2, "", f"{told} (in Python, call stream).\n")
    assert query("-u", url, "-mn", "llama_stream", "--stream") == (0, " Yellow.\n", "")
    assert query("-u", url, "-mn", "llama", "--stream") == (0, " Yellow.\n", "")
    code, _, error = query("-u", url, "-mn", "llama_trtllm")
    assert (code, "'llama_trtllm' is the TensorRT-LLM-shaped alias of 'llama'; name 'llama'" in error) == (2, True)
    code, _, error = query("-u", url, "-mn", "llama_trtllm", "--stream")
    assert (code, "The model 'llama_trtllm' has no streaming model" in error) == (2, True)


@pytest.mark.parametrize("flags", [[], ["--grpc"], ["--stream"], ["--stream", "--grpc"]])
def test_an_image_for_a_text_model(llama: Serving, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    url = str(llama.server.grpc_url if "--grpc" in flags else llama.http)
    code, out, error = query("-u", url, "-mn", "llama", "--image", str(tmp_path / "a.png"), *flags)
    assert (code, out) == (2, "")
    # The stub refuses what generate_stream takes for a parameter; Triton refuses the others.
    assert error in (
        "trgen: The model 'llama' takes no images; leave them out, or name a multimodal model.\n",
        "trgen: The server refused the request: This model has no input 'images'; leave it out.\n",
    )


def test_the_ports_of_the_rest_service_and_of_the_other_protocols(llama: Serving) -> None:
    with rest_service(llama.server.grpc_url) as rest:
        wrong = [[rest], [rest, "--stream"], [str(llama.server.grpc_url)], [str(llama.server.metrics_url)]]
        wrong.append([llama.http, "--grpc"])
        for url, *flags in wrong:
            code, out, error = query("-u", url, "-mn", "llama", *flags)
            assert (code, out, len(error.splitlines())) == (2, "", 1)
            assert error.startswith("trgen: What listens at 127.0.0.1:")
