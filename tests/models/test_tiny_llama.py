"""The committed tiny model: its files fit together and its report holds what the tests build on."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny_llama"


def read(name: str) -> dict:  # type: ignore[type-arg]
    return json.loads((FOLDER / name).read_text("utf-8"))  # type: ignore[no-any-return]


def test_every_line_is_answered_with_a_wide_margin() -> None:
    weights = read("report.json")["weights"]
    assert len(weights) == 3
    for entry in weights.values():
        assert entry["accuracy"] == 1.0
        assert entry["minimum_margin"] > 3


def test_a_token_is_a_byte() -> None:
    vocabulary = read("tokenizer.json")["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(256))
    assert all(vocabulary[chr(byte)] == byte for byte in range(0x21, 0x7F))
    added = {token["content"]: token["id"] for token in read("tokenizer.json")["added_tokens"]}
    assert added == {"<s>": 256, "</s>": 257, "<pad>": 258}


def test_its_sizes_permit_the_layouts_that_are_tested() -> None:
    config = read("config.json")
    for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "vocab_size"):
        assert config[name] % 4 == 0, name
    assert read("generation_config.json")["eos_token_id"] == config["eos_token_id"] == 257
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000
