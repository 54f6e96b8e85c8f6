"""The committed tiny model that takes images: its files fit together, and its report holds what tests build on."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny_qwen_vl"


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text("utf-8"))


def test_it_is_right_about_images_it_has_not_seen() -> None:
    weights = read("report.json")["weights"]
    assert len(weights) == 3
    for entry in weights.values():
        assert entry["pictures"] >= 400
        assert entry["accuracy"] >= 0.98


def test_its_sizes_are_what_nemo_and_two_ranks_need() -> None:
    text, vision = (read("config.json")[part] for part in ("text_config", "vision_config"))
    assert text["hidden_size"] // text["num_attention_heads"] == 128
    assert text["rope_scaling"]["mrope_section"] == [16, 24, 24]
    for sizes, names in (
        (text, ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "vocab_size")),
        (vision, ("num_heads", "intermediate_size")),
    ):
        for name in names:
            assert sizes[name] % 2 == 0, name
    assert vision["window_size"] == 112
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000


def test_its_special_tokens_are_where_its_configuration_says() -> None:
    config = read("config.json")
    added = {token["content"]: token["id"] for token in read("tokenizer.json")["added_tokens"]}
    for name, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        assert config[name] == added[token]
    assert read("generation_config.json")["eos_token_id"] == added["<|im_end|>"]
    assert len(read("tokenizer.json")["model"]["vocab"]) == min(added.values()) == 256
