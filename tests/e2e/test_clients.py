"""Every kind of client that the documentation names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

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
