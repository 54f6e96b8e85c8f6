"""From OpenAI's bodies to the wire, and what is refused on the way."""

import dataclasses
import json
from typing import Any

import pytest
from pydantic import ValidationError

from trition_repo_gen.rest.catalog import Model
from trition_repo_gen.rest.errors import ApiError, from_validation
from trition_repo_gen.rest.requests import AS_IS, ChatRequest, CompletionRequest
from trition_repo_gen.rest.sequences import chat_sequences, completion_sequences

OUTPUTS = frozenset(["sentences", "log_probs", "tokens"])
TEXT = Model(
    name="m", created=0, inputs=frozenset(["prompts"]), outputs=OUTPUTS, stream_name="m_stream", max_length=100
)
MULTIMODAL = Model(
    name="p", created=0, inputs=frozenset(["prompts", "images"]), outputs=frozenset(), stream_name=None, max_length=None
)
HELLO = [{"role": "user", "content": "Hello"}]


def completion(**fields: Any) -> list[Any]:
    return completion_sequences(CompletionRequest.model_validate({"model": "m", "prompt": "a"} | fields), TEXT)


def chat(model: Model = TEXT, **fields: Any) -> list[Any]:
    return chat_sequences(ChatRequest.model_validate({"model": "m", "messages": HELLO} | fields), model)


def test_openais_defaults() -> None:
    assert completion() == [{"prompts": "a", "temperature": 1.0, "top_k": 0, "max_length": 16}]
    (sequence,) = chat()
    assert sequence == {
        "prompts": json.dumps(HELLO),
        "apply_chat_template": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_length": 100,  # until the sequence is full
    }
    assert "max_length" not in chat(MULTIMODAL)[0]  # the model's own default


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 1}, {}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": 0}, {"top_k": 1}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"top_k": 5, "top_p": 0}, {"top_k": 5}),  # NeMo's clients: no limit
        ({"top_k": 1, "top_p": 0.0, "temperature": 1.0}, {"top_k": 1}),
        ({"random_seed": 3}, {"random_seed": 3}),
        ({"random_seed": 3, "seed": 3}, {"random_seed": 3}),
        ({"max_batch_size": 4, "apply_chat_template": False}, {}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"stop": "ß"}, {"stop_words": '["ß"]'}),
        ({"stop": ["a", "b"]}, {"stop_words": '["a", "b"]'}),
        ({"seed": 3}, {"random_seed": 3}),
        ({"min_tokens": 2}, {"min_length": 2}),
        ({"max_tokens": 7, "ignore_eos": True}, {"max_length": 7, "min_length": 7}),
        ({"max_tokens": 7, "ignore_eos": False, "min_tokens": 3}, {"max_length": 7, "min_length": 3}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"user": "me", "seed": None, "min_p": None}, {}),
        (
            {"presence_penalty": 0, "logit_bias": {}, "min_p": 0.1, "frequency_penalty": -2},
            {"presence_penalty": 0.0, "logit_bias": "{}", "min_p": 0.1, "frequency_penalty": -2.0},
        ),
        (
            {"logit_bias": {"1": 2, "30": -100.0}, "stop_token_ids": [7, 9]},
            {"logit_bias": '{"1": 2, "30": -100.0}', "stop_token_ids": "[7, 9]"},
        ),
    ],
)
def test_sampling(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    wanted = {"prompts": "a", "temperature": 1.0, "top_k": 0, "max_length": 16} | expected
    assert completion(**fields) == [wanted]
    assert chat(**fields)[0].items() >= expected.items()


def test_ends_are_ignored_where_the_model_can() -> None:
    model = dataclasses.replace(TEXT, inputs=TEXT.inputs | {"ignore_eos"})
    (sequence,) = chat(model, ignore_eos=True, max_tokens=7, min_tokens=2)
    assert (sequence["ignore_eos"], sequence["min_length"], sequence["max_length"]) == (True, 2, 7)


def test_no_new_tokens_with_the_log_probabilities_of_the_prompt() -> None:
    (sequence,) = completion(max_tokens=0, echo=True, logprobs=1)
    assert sequence["max_length"] == 0


def test_choices_of_several_prompts_have_seeds_of_their_own() -> None:
    sequences = completion(prompt=["a", "b"], n=2, seed=2**63 - 1)
    assert [(sequence["prompts"], sequence["random_seed"]) for sequence in sequences] == [
        ("a", 2**63 - 1),
        ("a", 0),
        ("b", 2**63 - 1),
        ("b", 0),
    ]


def test_log_probabilities() -> None:
    assert completion(logprobs=0)[0].items() >= {"compute_logprob": True}.items()
    assert completion(logprobs=2)[0]["n_top_logprobs"] == 2
    assert "n_top_logprobs" not in chat(logprobs=True)[0]
    assert chat(logprobs=True, top_logprobs=3)[0]["n_top_logprobs"] == 3
    with pytest.raises(ApiError, match="gives no log-probabilities"):
        chat(MULTIMODAL, logprobs=True)
    with pytest.raises(ApiError, match="top_logprobs is only allowed when logprobs is true"):
        chat(top_logprobs=3)


def test_messages_of_a_text_model() -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]
    messages = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": parts, "name": "me"},
        {"role": "assistant", "content": None},
    ]
    assert json.loads(chat(messages=messages)[0]["prompts"]) == [
        {"role": "developer", "content": "Be brief"},  # the ranks know what models take
        {"role": "user", "content": parts, "name": "me"},
        {"role": "assistant", "content": None},
    ]


def test_images_go_into_their_own_tensor() -> None:
    def ask(*urls: str) -> Any:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return chat(MULTIMODAL, messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}])[0]

    one = ask("data:image/png;base64,AA==")
    assert one["images"] == "data:image/png;base64,AA=="
    assert json.loads(one["prompts"]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    ]
    assert json.loads(ask("data:a", "https://b")["images"]) == ["data:a", "https://b"]
    assert "images" not in ask()


@pytest.mark.parametrize(
    ("kind", "fields", "param", "says"),
    [
        (CompletionRequest, {"prompt": None}, "prompt", "Invalid prompt"),
        (CompletionRequest, {"max_tokns": 1}, "max_tokns", "Unrecognized request argument supplied: max_tokns"),
        (CompletionRequest, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        (CompletionRequest, {"max_tokens": 0, "echo": True}, "max_tokens", "or 0 with echo and logprobs"),
        (CompletionRequest, {"max_tokens": 0, "logprobs": 1}, "max_tokens", "or 0 with echo and logprobs"),
        (CompletionRequest, {"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        (ChatRequest, {"max_tokens": 0, "logprobs": True}, "max_tokens", "greater than or equal to 1"),
        (ChatRequest, {"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        (CompletionRequest, {"temperature": 3}, "temperature", "less than or equal to 2"),
        (CompletionRequest, {"stop": [""]}, "stop.0", "at least 1 character"),
        (CompletionRequest, {"suffix": "x"}, "suffix", "suffix is not supported"),
        (CompletionRequest, {"best_of": 2}, "best_of", "best_of is not supported"),
        (CompletionRequest, {"seed": 1, "random_seed": 2}, "random_seed", "older name of seed; send one of them"),
        (CompletionRequest, {"random_seed": 2**63}, "random_seed", "less than"),
        (CompletionRequest, {"image": "file:///x"}, "image", "match pattern"),
        (CompletionRequest, {"images": ["data:,", "/etc/pass.wd"]}, "images.1", "match pattern"),
        (CompletionRequest, {"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
        (CompletionRequest, {"min_p": -0.1}, "min_p", "greater than or equal to 0"),
        (CompletionRequest, {"suffix": "a"}, "suffix", "suffix is not supported"),
        (CompletionRequest, {"stream_options": {}}, "stream_options", "only allowed when stream is true"),
        (ChatRequest, {"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
        (ChatRequest, {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (ChatRequest, {"messages": []}, "messages", "at least 1 item"),
        (ChatRequest, {"messages": [{"role": "king"}]}, "messages.0.role", "Input should be"),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
            "messages.0.content.0.image_url.url",
            "match pattern",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]},
            "messages.0.content.0.image_url",
            "match pattern",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "file:///x"}]}]},
            "messages.0.content.0.image",
            "match pattern",
        ),
    ],
)
def test_mistakes(kind: Any, fields: dict[str, Any], param: str, says: str) -> None:
    body = {"model": "m", "prompt": "a"} if kind is CompletionRequest else {"model": "m", "messages": HELLO}
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body | fields)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    error = from_validation(errors, body | fields)
    assert (error.status_code, error.param) == (400, param)
    assert says in error.detail


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], []])
def test_prompts_that_are_no_text(prompt: Any) -> None:
    with pytest.raises(ApiError, match="token ids are not supported"):
        completion(prompt=prompt)


def test_too_many_answers_and_images_for_a_text_model() -> None:
    with pytest.raises(ApiError, match="128 answers at most"):
        completion(prompt=["a"] * 65, n=2)
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    with pytest.raises(ApiError, match="'m' takes no images"):
        chat(messages=image)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": "data:image/png;base64,AA=="},
        {"type": "image", "image": "data:image/png;base64,AA=="},
    ],
)
def test_every_way_to_write_an_image_of_a_message(part: Any) -> None:
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
    (sequence,) = chat(MULTIMODAL, messages=messages, max_batch_size=4, random_seed=5)
    assert (sequence["images"], sequence["random_seed"]) == ("data:image/png;base64,AA==", 5)
    assert json.loads(sequence["prompts"]) == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    ]
    with pytest.raises(ApiError, match="'m' takes no images"):
        chat(messages=messages)


def nemo(model: Model = MULTIMODAL, **fields: Any) -> list[Any]:
    return completion_sequences(CompletionRequest.model_validate({"model": "p"} | fields), model)


def test_the_body_of_nemos_multimodal_service() -> None:
    sent: dict[str, Any] = {
        "max_tokens": 50,
        "temperature": 1.0,
        "top_p": 0.0,
        "top_k": 0,
        "random_seed": None,
        "max_batch_size": 4,
    }
    (sequence,) = nemo(prompt="What?", image="data:image/png;base64,AA==", apply_chat_template=False, **sent)
    assert sequence == {
        "prompts": "What?",
        "images": "data:image/png;base64,AA==",
        "temperature": 1.0,
        "top_k": 0,
        "max_length": 50,
    }
    # Without max_tokens it is the model's own default, as it was there.
    assert nemo(prompt="What?", image="AA==") == [
        {"prompts": "What?", "images": "AA==", "temperature": 1.0, "top_k": 0},
    ]
    assert nemo(prompt="What?", image="") == nemo(prompt="What?", image=None) == nemo(prompt="What?")


def test_the_body_of_nemos_ray_service() -> None:
    sequences = nemo(prompts=["a", "b"], images=["data:,a", "https://b.example/"], n=2)
    assert [(sequence["prompts"], sequence["images"]) for sequence in sequences] == [
        ("a", "data:,a"),
        ("a", "data:,a"),
        ("b", "https://b.example/"),
        ("b", "https://b.example/"),
    ]
    assert nemo(prompts=["a"], images=[]) == nemo(prompt="a")
    with pytest.raises(ApiError, match="There are 1 images for 2 prompts; send one for each") as caught:
        nemo(prompts=["a", "b"], images=["data:,a"])
    assert caught.value.param == "images"
    for field, value in (("image", "AA=="), ("images", ["AA=="])):
        with pytest.raises(ApiError, match="'m' takes no images") as caught:
            nemo(TEXT, prompt="a", **{field: value})
        assert caught.value.param == field


def test_the_reference_says_what_is_legacy() -> None:
    def legacy(model: Any) -> set[str]:
        fields = model.model_json_schema()["properties"]
        assert all("description" in fields[tensor.rest] for tensor in AS_IS)
        marked = {name for name, field in fields.items() if field.get("deprecated")}
        assert marked == {name for name, field in fields.items() if field.get("description", "").startswith("Legacy")}
        return marked

    common = {"random_seed", "max_batch_size", "apply_chat_template"}
    assert legacy(CompletionRequest) == common | {"prompts", "image", "images"}
    assert legacy(ChatRequest) == common
