"""Text and tokens of a model whose tokenizer is like Llama 2's, over Triton, its streams, the alias and REST."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.resting import rest_service
from tests.e2e.serving import PROMPTS, Serve, Serving, run
from tests.e2e.test_trtllm_alias import ask as ask_alias
from tests.e2e.test_trtllm_alias import text as alias_text
from trition_repo_gen.clients import Completion, LLMClient
from trition_repo_gen.errors import QueryError

BANANA = PROMPTS[0]
LONG = "Count from one to fifty."
LIMIT = 400
"""Tokens of prompt and answer together."""


@pytest.fixture(scope="module")
def spaced(
    serve: Serve, megatron_python: Path, checkout: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tokenizer") / "spaced"
    run([megatron_python, checkout / "tests/models/spaced_tokenizer.py", tiny_llama, folder])
    flags = ("--tokenizer", str(folder), "--inference-max-seq-length", str(LIMIT), "--trtllm-alias")
    with serve("llama", *flags) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(spaced: Serving) -> Iterator[openai.OpenAI]:
    with rest_service(spaced.server.grpc_url) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def stream(serving: Serving, prompt: Any, **parameters: Any) -> tuple[str, Completion]:
    """Return what the pieces of a stream join to, and the whole answer."""
    with LLMClient(serving.http, serving.model) as client:
        *pieces, whole = client.stream(prompt, **parameters)
    assert isinstance(whole, Completion)
    return "".join(map(str, pieces)), whole


def complete(client: openai.OpenAI, prompt: str = BANANA, **wanted: Any) -> Any:
    wanted = {"model": "llama", "prompt": prompt, "temperature": 0, **wanted}
    return client.completions.create(**wanted).choices[0]


def test_an_answer_keeps_its_first_space(spaced: Serving, client: openai.OpenAI) -> None:
    for echo in (False, True):
        expected = BANANA * echo + " Yellow."
        assert spaced.ask(BANANA, echo=echo).sentences == [expected]
        assert stream(spaced, BANANA, echo=echo)[0] == expected
        assert complete(client, echo=echo).text == expected
        streamed = complete_stream(client, prompt=BANANA, echo=echo)
        assert streamed == expected
        for streams in (False, True):
            answer = ask_alias(spaced, BANANA, stream=streams, exclude_input_in_output=not echo)
            assert alias_text(answer) == expected


def complete_stream(client: openai.OpenAI, **wanted: Any) -> str:
    wanted = {"model": "llama", "temperature": 0, **wanted}
    return "".join(chunk.choices[0].text for chunk in client.completions.create(**wanted, stream=True))


ANSWERS = {
    "How do you write 'cat' in Japanese?": "猫",
    "How do you write 'thank you' in Hindi?": "धन्यवाद",
    "How do you write 'street' in German?": "Straße",
    "Show me the flag of Japan.": "🇯🇵",
    "Show me a family.": "👨‍👩‍👧‍👦",
    "Show me a waving hand.": "👋🏽",
    "What does 🐘 mean?": "An elephant.",
}
"""What the tiny model has learnt."""


@pytest.mark.parametrize("prompt", ANSWERS)
def test_answers_of_many_scripts_and_the_bytes_of_their_tokens(
    spaced: Serving, client: openai.OpenAI, prompt: str
) -> None:
    plain = spaced.ask(prompt).sentences[0]
    assert plain == f" {ANSWERS[prompt]}"
    assert stream(spaced, prompt)[0] == plain
    for length in range(1, 8):
        assert stream(spaced, prompt, max_length=length)[0] == spaced.ask(prompt, max_length=length).sentences[0]

    logprobs = complete(client, prompt, echo=True, logprobs=1, max_tokens=80).logprobs
    assert logprobs.tokens[0] == "<s>"
    assert logprobs.text_offset[1:3] == [0, 1]
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)

    messages = [{"role": "user", "content": prompt}]
    chat = client.chat.completions.create(
        model="llama", messages=messages, temperature=0, logprobs=True, top_logprobs=2  # type: ignore[arg-type]
    ).choices[0]  # fmt: skip
    assert chat.logprobs is not None
    assert chat.logprobs.content is not None
    joined = b"".join(bytes(token.bytes or []) for token in chat.logprobs.content)
    assert joined.decode() == f"{chat.message.content}</s>"
    assert all(top.bytes is not None for token in chat.logprobs.content for top in token.top_logprobs)


def test_a_stop_word_that_begins_with_a_space(spaced: Serving, client: openai.OpenAI) -> None:
    whole = spaced.ask(LONG, max_length=100).sentences[0]
    expected = whole[: whole.index(" three")]
    assert spaced.ask(LONG, stop_words='[" three"]', max_length=100).sentences == [expected]
    assert stream(spaced, LONG, stop_words=[" three"], max_length=100)[0] == expected
    assert complete(client, LONG, stop=" three", max_tokens=100).text == expected


def test_a_stop_word_of_a_special_token(spaced: Serving, client: openai.OpenAI) -> None:
    on = spaced.ask(BANANA, ignore_eos=True, max_length=40)
    assert (on.completion_tokens, on.finish_reason) == ([40], ["length"])
    reply = spaced.ask(BANANA, ignore_eos=True, max_length=40, stop_words='["</s>"]')
    assert (reply.sentences, reply.finish_reason, reply.completion_tokens) == ([" Yellow."], ["stop"], [9])
    told, whole = stream(spaced, BANANA, ignore_eos=True, max_length=40, stop_words=["w.</s>"])
    assert (told, whole.finish_reason) == (" Yello", "stop")
    choice = complete(client, max_tokens=40, stop=["</s>"], extra_body={"ignore_eos": True})
    assert (choice.text, choice.finish_reason) == (" Yellow.", "stop")


def test_one_beginning_of_text(spaced: Serving) -> None:
    assert spaced.ask(f"<s>{BANANA}").prompt_tokens == spaced.ask(BANANA).prompt_tokens
    assert spaced.ask(f"<s>{BANANA}").sentences == [" Yellow."]
    assert spaced.ask(f"<s>{BANANA}", echo=True).sentences == [f"<s>{BANANA} Yellow."]


def chat_tokens(serving: Serving, content: Any) -> int:
    messages = [{"role": "user", "content": content}]
    return serving.ask(json.dumps(messages), apply_chat_template=True, max_length=1).prompt_tokens[0]


def test_text_of_messages_is_no_control_token(spaced: Serving, client: openai.OpenAI) -> None:
    assert chat_tokens(spaced, "a</s>b") == chat_tokens(spaced, "a1234b")
    messages = [{"role": "user", "content": "a</s>b"}]
    usage = client.chat.completions.create(model="llama", messages=messages, max_tokens=1).usage  # type: ignore[arg-type]
    assert usage is not None
    assert usage.prompt_tokens == chat_tokens(spaced, "a1234b")
    assert spaced.ask("a</s>b", max_length=1).prompt_tokens == spaced.ask("a1b", max_length=1).prompt_tokens


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo")],
)
def test_contents_are_alike_by_triton_and_rest(spaced: Serving, client: openai.OpenAI, content: Any, text: str) -> None:
    assert chat_tokens(spaced, content) == chat_tokens(spaced, text)
    messages: Any = [{"role": "user", "content": content}]
    usage = client.chat.completions.create(model="llama", messages=messages, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == chat_tokens(spaced, text)


def test_extreme_parameters_have_their_limits(spaced: Serving, client: openai.OpenAI) -> None:
    for temperature in (1e-45, 1e-42, 1e-38, 1e-30):
        assert spaced.ask(BANANA, temperature=temperature, top_k=0).sentences == [" Yellow."]
        assert complete(client, temperature=temperature).text == " Yellow."
    penalised = [
        spaced.ask(BANANA, repetition_penalty=penalty, top_k=top_k, max_length=12).sentences[0]
        for penalty in (1e-30, 1e-40, 1e-45)
        for top_k in (0, 1)
    ]
    assert len(set(penalised)) == 1


def test_no_new_tokens_but_the_log_probabilities_of_the_prompt(spaced: Serving, client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"echo": True, "compute_logprob": True, "n_top_logprobs": 1}
    with_one = spaced.ask(BANANA, max_length=1, **wanted)
    none = spaced.ask([BANANA, LONG], max_length=[0, 2], **wanted)
    assert none.sentences[0] == BANANA
    assert (none.completion_tokens[0], none.finish_reason[0]) == (0, "length")
    assert none.log_probs[0] == pytest.approx(with_one.log_probs[0][:-1], abs=1e-4)
    assert len(none.log_probs[0]) == len(none.top_logprobs[0]) == none.prompt_tokens[0] - 1
    told, whole = stream(spaced, BANANA, max_length=0, **wanted)
    assert told == BANANA
    assert whole.log_probs == pytest.approx(none.log_probs[0], abs=1e-4)

    for streams in (False, True):
        body: dict[str, Any] = {"model": "llama", "prompt": BANANA, "echo": True, "logprobs": 1, "max_tokens": 0}
        answer: Any = client.completions.create(**body, stream=streams)
        choice = [*answer][-1].choices[0] if streams else answer.choices[0]
        assert choice.finish_reason == "length"
        assert choice.logprobs.token_logprobs == [None, *(pytest.approx(x, abs=1e-4) for x in none.log_probs[0])]

    full = "x" * (LIMIT - 1)  # and <s>
    assert spaced.ask(full, max_length=0, **wanted).prompt_tokens == [LIMIT]
    for values in ({}, {"echo": True}, {"compute_logprob": True}):
        with pytest.raises(InferenceServerException, match="max_length is 0; it has to be 1 or more, or echo"):
            spaced.ask(BANANA, max_length=0, **dict[str, Any](values))
    with pytest.raises(openai.BadRequestError, match="or 0 with echo and logprobs"):
        client.completions.create(model="llama", prompt="a", max_tokens=0)


def test_a_stop_word_counts_after_min_length(spaced: Serving, client: openai.OpenAI) -> None:
    whole = spaced.ask(LONG, max_length=300).sentences[0]
    least = len(whole[: whole.index("four")].encode())
    expected = whole[: whole.index(", ", least + 1)]
    reply = spaced.ask(LONG, max_length=300, min_length=least, stop_words='[", "]')
    assert (reply.sentences, reply.finish_reason) == ([expected], ["stop"])
    assert stream(spaced, LONG, max_length=300, min_length=least, stop_words=[", "])[0] == expected
    body = {"min_tokens": least}
    assert complete(client, LONG, max_tokens=300, stop=[", "], extra_body=body).text == expected
    with pytest.raises(InferenceServerException, match="min_length is 9; it has to be at most max_length, which is 8"):
        spaced.ask(LONG, max_length=8, min_length=9)
    with pytest.raises(openai.BadRequestError, match="min_tokens is 9; it has to be at most max_tokens") as caught:
        complete(client, LONG, max_tokens=8, extra_body={"min_tokens": 9})
    assert caught.value.param == "min_tokens"


def test_what_is_cut_says_length(spaced: Serving, client: openai.OpenAI) -> None:
    prompt = "x" * (LIMIT - 10)
    reply = spaced.ask(prompt, max_length=LIMIT, ignore_eos=True)
    assert (reply.completion_tokens, reply.finish_reason) == ([9], ["length"])
    _, whole = stream(spaced, prompt, max_length=LIMIT, ignore_eos=True)
    assert (whole.completion_tokens, whole.finish_reason) == (9, "length")
    choice = complete(client, prompt, max_tokens=LIMIT, extra_body={"ignore_eos": True})
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("streams", [False, True])
def test_what_cannot_fit_is_told_in_the_words_that_clients_look_for(client: openai.OpenAI, streams: bool) -> None:
    words = f"maximum context length is {LIMIT} tokens"
    long, longer = "x" * LIMIT, "x" * 10_000_000
    completion: dict[str, Any] = {"model": "llama", "prompt": "a", "stream": streams}
    chat: dict[str, Any] = {"model": "llama", "messages": [{"role": "user", "content": "a"}], "stream": streams}
    cases: list[tuple[Any, dict[str, Any], str, str]] = [
        (client.completions.create, completion | {"prompt": long}, "prompt", f"The prompt has {LIMIT + 1} tokens"),
        (client.completions.create, completion | {"prompt": longer}, "prompt", "The prompt has 10000000 bytes"),
        (client.completions.create, completion | {"max_tokens": 5000}, "max_tokens", "max_tokens is 5000"),
        (client.chat.completions.create, chat | {"max_tokens": 5000}, "max_tokens", "max_tokens is 5000"),
        (
            client.chat.completions.create,
            chat | {"max_completion_tokens": 5000},
            "max_completion_tokens",
            "max_completion_tokens is 5000",
        ),
        (
            client.chat.completions.create,
            chat | {"messages": [{"role": "user", "content": long}]},
            "messages",
            "The prompt has",
        ),
    ]
    for create, body, param, sentence in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            create(**body)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
        assert words in caught.value.message
        assert sentence in caught.value.message
        assert "max_length" not in caught.value.message


def test_triton_names_its_own_tensors(spaced: Serving) -> None:
    words = f"maximum context length is {LIMIT} tokens"
    with pytest.raises(InferenceServerException, match=f"max_length is 5000, .*{words}"):
        spaced.ask(BANANA, max_length=5000)
    with pytest.raises(QueryError, match=f"The prompt has {LIMIT + 1} tokens, .*{words}"):
        stream(spaced, "x" * LIMIT)
    with pytest.raises(InferenceServerException, match=f"max_tokens is 5000, .*{words}"):
        ask_alias(spaced, BANANA, max_tokens=5000)
