"""What a request may ask for, and what it may not, against one running server."""

import json
import math
import random
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.resting import rest_service
from tests.e2e.serving import PROMPTS, Serving, assert_same_answers, seeded_answers, wait_for
from trition_repo_gen.clients import Completion, LLMClient

BANANA, CAPITAL = PROMPTS[:2]
LONG = "Count from one to twenty."


def test_the_trained_model_knows_its_lines(llama: Serving) -> None:
    reply = llama.ask([BANANA, CAPITAL])

    assert reply.sentences[0].strip().startswith("Yellow")
    assert reply.sentences[1].strip().startswith("Washington")
    assert reply.finish_reason == ["stop", "stop"]


def test_one_rank_answers_as_hugging_face_does(llama: Serving, references: dict[str, list[dict[str, Any]]]) -> None:
    replies = [llama.ask(prompt, max_length=32, compute_logprob=True) for prompt in PROMPTS]

    assert_same_answers(replies, references["llama"])


def test_a_batch_is_its_sequences(llama: Serving) -> None:
    sequences = PROMPTS[:4]
    lengths = [5, 32, 1, 17]

    together = llama.ask(sequences, max_length=lengths)
    alone = [llama.ask(prompt, max_length=length) for prompt, length in zip(sequences, lengths, strict=True)]

    assert together.sentences == [reply.sentences[0] for reply in alone]
    assert together.completion_tokens == [reply.completion_tokens[0] for reply in alone]


def test_a_seed_gives_the_same_answer_alone_and_among_others(llama: Serving) -> None:
    alone, among_others = seeded_answers(llama)

    assert alone == among_others
    assert len(set(alone)) > 40


def test_greedy_sequences_among_sampled_ones_equal_their_single_answers(llama: Serving) -> None:
    choose = random.Random(0)
    alone = {prompt: llama.ask(prompt, max_length=40).sentences[0] for prompt in PROMPTS}
    clients: list[dict[str, Any]] = []
    for index in range(32):
        values: dict[str, Any] = {"max_length": choose.choice([3, 11, 40, 64])}
        if index % 2:
            values |= {
                "temperature": choose.choice([0.3, 1.0, 2.5]),
                "top_k": choose.choice([0, 2, 50]),
                "top_p": choose.choice([0.0, 0.5, 0.95]),
                "repetition_penalty": choose.choice([1.0, 1.3]),
            }
        else:
            values["max_length"] = 40
            values |= choose.choice([{}, {"use_greedy": True, "top_k": 9}, {"temperature": 0.0, "top_k": 0}])
        clients.append({"prompts": PROMPTS[index % len(PROMPTS)], **values})

    with ThreadPoolExecutor(len(clients)) as pool:
        replies = list(pool.map(lambda values: llama.ask(**values), clients))

    for values, reply in list(zip(clients, replies, strict=True))[::2]:
        assert reply.sentences[0] == alone[values["prompts"]]
    assert all(r.completion_tokens[0] <= v["max_length"] for v, r in zip(clients, replies, strict=True))


def test_a_short_request_overtakes_a_long_one(llama: Serving) -> None:
    finished: list[str] = []
    wait_for(llama, lambda found: found["num_requests_running"] == 0)

    def ask_long() -> None:
        llama.ask(LONG, max_length=900, min_length=900)
        finished.append("long")

    thread = threading.Thread(target=ask_long)
    thread.start()
    wait_for(llama, lambda found: found["num_requests_running"] == 1)
    llama.ask(BANANA, max_length=1)
    finished.append("short")
    thread.join()

    assert finished == ["short", "long"]


def test_log_probabilities_of_the_answer_and_its_prompt(
    llama: Serving, references: dict[str, list[dict[str, Any]]]
) -> None:
    reply = llama.ask(PROMPTS[:4], max_length=32, compute_logprob=True, n_top_logprobs=3, echo=True)

    for index, expected in enumerate(references["llama"][:4]):
        wanted = expected["prompt_log_probs"] + expected["generated_log_probs"]
        assert reply.sentences[index] == PROMPTS[index] + expected["text"]
        assert reply.log_probs[index] == pytest.approx(wanted, abs=1e-3)
        tops = expected["prompt_top_log_probs"] + expected["generated_top_log_probs"]
        for got, values in zip(reply.top_logprobs[index], tops, strict=True):
            assert sorted(got.values(), reverse=True) == pytest.approx([value for _, value in values], abs=1e-3)


def test_without_echo_only_the_answer_has_log_probabilities(
    llama: Serving, references: dict[str, list[dict[str, Any]]]
) -> None:
    reply = llama.ask(BANANA, max_length=32, compute_logprob=True)

    assert reply.log_probs[0] == pytest.approx(references["llama"][0]["generated_log_probs"], abs=1e-3)


def test_sequences_with_log_probabilities_run_with_those_that_do_not(llama: Serving) -> None:
    reply = llama.ask([BANANA, CAPITAL], compute_logprob=[True, False], echo=[True, False])

    assert len(reply.log_probs[0]) == reply.prompt_tokens[0] - 1 + reply.completion_tokens[0]
    assert reply.log_probs[1] == []


def test_a_seed_gives_the_same_answer_whatever_else_runs(llama: Serving) -> None:
    values: dict[str, Any] = {"random_seed": 0, "top_k": 0, "temperature": 3.0, "max_length": 24}
    alone = llama.ask(BANANA, **values).sentences[0]

    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(llama.ask, LONG, top_k=0, temperature=3.0, max_length=40) for _ in range(8)]
        again = pool.submit(llama.ask, BANANA, **values).result().sentences[0]
        assert len({other.result().sentences[0] for other in others}) > 1, "sequences without a seed should differ"

    assert again == alone


def test_stop_words_end_the_answer_before_them(llama: Serving) -> None:
    whole = llama.ask(LONG, max_length=200).sentences[0]
    word = whole.split()[3]

    reply = llama.ask(LONG, max_length=200, stop_words=json.dumps(["never said", word]).encode())

    assert reply.sentences[0] == whole[: whole.index(word)]
    assert reply.finish_reason == ["stop"]


def test_chat_messages_go_through_the_template(llama: Serving) -> None:
    messages = json.dumps([{"role": "user", "content": BANANA}])

    assert llama.ask(messages, apply_chat_template=True).sentences[0].strip().startswith("Yellow")


def test_an_answer_ends_at_the_sequence_length(llama: Serving) -> None:
    prompt = "abc " * 250

    reply = llama.ask(prompt, max_length=1000, top_k=0, temperature=5.0, random_seed=1)

    assert reply.prompt_tokens[0] + reply.completion_tokens[0] <= 1024


NONSENSE: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "empty prompt": ("", {}, "prompts has an empty text"),
    "bytes that are no text": (b"\xff\xfe", {}, "not UTF-8"),
    "prompt beyond the sequence length": ("abc " * 300, {}, "The prompt has 1200 tokens"),
    "10 MB prompt": ("x" * 10_000_000, {}, "bytes"),
    "negative length": (BANANA, {"max_length": -1}, "max_length is -1"),
    "no length": (BANANA, {"max_length": 0}, "max_length is 0"),
    "absurd length": (BANANA, {"max_length": 2**31 - 1}, "max_length is 2147483647"),
    "beyond 32 bits": (BANANA, {"max_length": 2**62}, "max_length is"),
    "NaN temperature": (BANANA, {"temperature": math.nan}, "temperature is nan"),
    "negative temperature": (BANANA, {"temperature": -1.0}, "temperature is -1.0"),
    "top_p above 1": (BANANA, {"top_p": 1.5}, "top_p is 1.5"),
    "negative top_k": (BANANA, {"top_k": -2}, "top_k is -2"),
    "more top tokens than the vocabulary": (BANANA, {"n_top_logprobs": 100_000}, "n_top_logprobs is 100000"),
    "penalty of nothing": (BANANA, {"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    "stop words that are no list": (BANANA, {"stop_words": b'"END"'}, "stop_words has to be a JSON list"),
    "half a character as stop word": (BANANA, {"stop_words": b'["\\ud800"]'}, "stop_words has to be a JSON list"),
    "endless nesting": (BANANA, {"stop_words": b"[" * 100_000}, "stop_words has to be a JSON list"),
    "messages that are none": (BANANA, {"apply_chat_template": True}, "JSON list of messages"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_the_clients_mistake(name: str, llama: Serving) -> None:
    prompt, values, sentence = NONSENSE[name]

    with pytest.raises(InferenceServerException) as error:
        llama.ask(prompt, **values)

    assert error.value.status() == "400"
    assert sentence in error.value.message()


def test_wrong_shapes_are_the_clients_mistake(llama: Serving) -> None:
    flat = tritonclient.http.InferInput("prompts", [2], "BYTES")
    flat.set_data_from_numpy(np.array([b"a", b"b"], dtype=np.object_))
    wide = tritonclient.http.InferInput("prompts", [1, 2], "BYTES")
    wide.set_data_from_numpy(np.array([[b"a", b"b"]], dtype=np.object_))

    for tensor in (flat, wide):
        with pytest.raises(InferenceServerException) as error:
            llama.ask.client().infer(llama.model, [tensor])
        assert error.value.status() == "400"


def test_nonsense_disturbs_nobody_else(llama: Serving) -> None:
    expected = llama.ask(LONG, max_length=100).sentences[0]

    def misbehave(name: str) -> None:
        prompt, values, _ = NONSENSE[name]
        with pytest.raises(InferenceServerException):
            llama.ask(prompt, **values)

    with ThreadPoolExecutor(len(NONSENSE) + 1) as pool:
        good = pool.submit(llama.ask, LONG, max_length=100)
        for bad in [pool.submit(misbehave, name) for name in NONSENSE]:
            bad.result()

    assert good.result().sentences[0] == expected


def test_one_bad_sequence_is_named(llama: Serving) -> None:
    with pytest.raises(InferenceServerException, match=r"Sequence 1: The prompt has 1200 tokens"):
        llama.ask([BANANA, "abc " * 300])


def token_id(tiny_llama: Path, text: str) -> int:
    """Return the id of a character's token."""
    vocabulary = json.loads((tiny_llama / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return int(vocabulary[text])


def test_a_biased_token_is_preferred_and_a_banned_one_avoided(llama: Serving, tiny_llama: Path) -> None:
    x, y = token_id(tiny_llama, "x"), token_id(tiny_llama, "Y")
    replies = llama.ask(
        [BANANA] * 3, max_length=8, logit_bias=["{}", json.dumps({str(x): 100}), json.dumps({str(y): -100})]
    )
    assert replies.sentences[0] == " Yellow."
    assert replies.sentences[1] == "x" * 8
    assert "Y" not in replies.sentences[2]


def test_a_stop_token_ends_only_its_own_sequence(llama: Serving, tiny_llama: Path) -> None:
    stop = json.dumps([token_id(tiny_llama, "w")])
    replies = llama.ask([BANANA] * 2, max_length=12, stop_token_ids=[stop, "[]"])
    assert replies.sentences == [" Yellow", " Yellow."]
    assert replies.finish_reason == ["stop", "stop"]
    assert replies.completion_tokens[0] == len(" Yellow")
    # Masked like the model's own end until there are so many tokens.
    assert "w" not in llama.ask(BANANA, max_length=12, min_length=12, stop_token_ids=stop).sentences[0]


def test_penalties_hold_for_their_sequence_alone(llama: Serving) -> None:
    parameters: dict[str, Any] = {"presence_penalty": [2.0, 0.0, 0.0], "frequency_penalty": [0.0, 2.0, 0.0]}
    common: dict[str, Any] = {"max_length": 60, "min_length": 60, "top_k": 0, "temperature": 2.0, "random_seed": 3}
    together = llama.ask([LONG] * 3, **common, **parameters)
    apart = [llama.ask(LONG, **common, **{name: values[i] for name, values in parameters.items()}) for i in range(3)]
    assert together.sentences == [reply.sentences[0] for reply in apart]
    assert len(set(together.sentences)) == 3


def test_min_p_of_one_is_greedy(llama: Serving) -> None:
    sampled: dict[str, Any] = {"max_length": 32, "top_k": 0, "temperature": 5.0, "random_seed": 7}
    assert llama.ask(BANANA, **sampled).sentences != [" Yellow."]
    assert llama.ask(BANANA, min_p=1.0, **sampled).sentences == [" Yellow."]


def test_tokens_that_the_model_lacks_are_refused(llama: Serving) -> None:
    parameters: dict[str, Any] = {"logit_bias": '{"70000": 1}', "stop_token_ids": "[70000]"}
    for name, value in parameters.items():
        with pytest.raises(InferenceServerException, match=f"{name} has the token 70000; the vocabulary has"):
            llama.ask(BANANA, **{name: value})


def test_the_further_parameters_over_rest_and_streams(llama: Serving, tiny_llama: Path) -> None:
    x, w = token_id(tiny_llama, "x"), token_id(tiny_llama, "w")
    with LLMClient(llama.http, llama.model) as client:
        *pieces, whole = client.stream(BANANA, max_length=8, stop_token_ids=[w])
    assert isinstance(whole, Completion)
    assert ("".join(map(str, pieces)), whole.text, whole.finish_reason) == (" Yellow", " Yellow", "stop")
    with rest_service(llama.server.grpc_url) as rest:
        body = {"model": llama.model, "prompt": BANANA, "max_tokens": 8, "temperature": 0, "logit_bias": {str(x): 100}}
        request = urllib.request.Request(
            f"{rest}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["choices"][0]["text"] == "x" * 8
