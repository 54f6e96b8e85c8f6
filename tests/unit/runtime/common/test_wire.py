"""The table of tensors, and that whatever names a tensor reads it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trition_repo_gen
from trition_repo_gen.clients import llm
from trition_repo_gen.rest import requests as rest
from trition_repo_gen.runtime.common import wire
from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.stub import trtllm

SOURCE = Path(trition_repo_gen.__file__).parent


def test_names_are_unique() -> None:
    for names in (
        [tensor.name for tensor in wire.INPUTS] + [tensor.name for tensor in wire.OUTPUTS],
        [tensor.rest for tensor in wire.INPUTS if tensor.rest],
        [alias.name for alias, _ in wire.TRTLLM_INPUTS],
        [tensor.attribute for tensor in wire.INPUTS],
    ):
        assert len(names) == len(set(names))


def test_every_input_sets_a_field_of_a_sequence_or_is_accepted_only() -> None:
    fields = {field.name for field in dataclasses.fields(SequenceRequest)}
    own = {tensor.attribute for tensor in wire.INPUTS if not tensor.ignored} - {"use_greedy"}
    assert own <= fields
    assert fields - own == {"stream"}


def test_a_default_is_one_that_the_tensor_accepts_and_the_sequence_has() -> None:
    sequence = SequenceRequest(prompt="a")
    for tensor in wire.INPUTS:
        if tensor.default is not None and tensor.name != "use_greedy":
            assert tensor.read(tensor.default) == tensor.default == getattr(sequence, tensor.attribute)


def test_clients_know_every_input() -> None:
    assert set(llm._PARAMETERS) == wire.names(wire.INPUTS) - {"prompts", "max_batch_size"}


def test_rest_has_a_field_for_every_parameter_that_it_does_not_translate() -> None:
    for body in (rest.CompletionRequest, rest.ChatRequest):
        assert {tensor.rest for tensor in rest.AS_IS} <= body.model_fields.keys()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("top_k", -1, "top_k is -1; it has to be 0 or more, and at most 2147483647."),
        ("max_length", -1, "max_length is -1; it has to be 0 or more, and at most 2147483647."),
        ("top_p", 1.5, "top_p is 1.5; it has to be between 0 and 1."),
        ("temperature", float("nan"), "temperature is nan; it has to be 0 or more."),
        ("repetition_penalty", 0.0, "repetition_penalty is 0.0; it has to be above 0."),
        (
            "stop_words",
            b'["a", ""]',
            'stop_words has to be a JSON list of texts such as ["\\n", "END"], none of them empty.',
        ),
        ("min_p", 1.5, "min_p is 1.5; it has to be between 0 and 1."),
        ("presence_penalty", -2.5, "presence_penalty is -2.5; it has to be between -2 and 2."),
        ("frequency_penalty", float("inf"), "frequency_penalty is inf; it has to be between -2 and 2."),
        ("logit_bias", b"[1]", 'logit_bias has to be a JSON object from token id to number such as {"42": -100}.'),
        ("logit_bias", b'{"a": 1}', 'logit_bias has to be a JSON object from token id to number such as {"42": -100}.'),
        ("logit_bias", b'{"1": NaN}', "logit_bias has nan; a bias has to be between -100 and 100."),
        ("stop_token_ids", b"[-1]", "stop_token_ids has to be a JSON list of token ids such as [2, 13]."),
        ("stop_token_ids", b"[true]", "stop_token_ids has to be a JSON list of token ids such as [2, 13]."),
        ("prompts", b"\xff", "prompts has a text that is not UTF-8 (byte 0)."),
    ],
)
def test_a_bad_value_is_one_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(wire.BadRequestError) as refused:
        wire.BY_NAME[name].read(value)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", True), ("top_k", 1.0), ("top_k", "1"), ("temperature", True), ("temperature", "1"), ("echo", 1)],
)
def test_a_client_packs_no_value_that_the_tensor_would_change(name: str, value: Any) -> None:
    with pytest.raises(wire.BadRequestError, match=f"{name} is "):
        wire.BY_NAME[name].pack(value)


def test_numpy_values_are_packed() -> None:
    assert wire.BY_NAME["top_k"].pack(np.int32(3)) == 3
    assert wire.BY_NAME["temperature"].pack(np.float32(0.5)) == 0.5
    assert wire.BY_NAME["echo"].pack(np.bool_(True))


def test_only_the_table_spells_the_names_of_suffixes() -> None:
    """A name that stands twice drifts apart."""
    for path in SOURCE.rglob("*.py"):
        if path.name != "wire.py":
            text = path.read_text(encoding="utf-8")
            assert f'"{wire.STREAM_SUFFIX}"' not in text, path
            assert f'"{wire.BUSY_MARK}"' not in text, path


@pytest.mark.parametrize(
    ("data", "spelling"),
    [
        (b" hello", " hello"),
        ("猫".encode(), "猫"),
        (b"", ""),
        (b"\xe7", r"bytes:\xe7"),
        ("猫".encode()[:2] + b"a", r"bytes:\xe7\x8c\x61"),
        (rb"bytes:\xe7", r"bytes:\x62\x79\x74\x65\x73\x3a\x5c\x78\x65\x37"),
        (b"bytes:", "bytes:"),
    ],
)
def test_a_tokens_spelling_tells_its_bytes(data: bytes, spelling: str) -> None:
    assert wire.spell_bytes(data) == spelling
    assert wire.bytes_of_spelling(spelling) == data


def test_a_refusal_by_the_alias_names_its_tensors() -> None:
    sentence = "min_length is 9; it has to be at most max_length, which is 8."
    assert wire.rename_inputs(sentence, trtllm.NAMES) == (
        "min_tokens is 9; it has to be at most max_tokens, which is 8.",
        "min_tokens",
    )
