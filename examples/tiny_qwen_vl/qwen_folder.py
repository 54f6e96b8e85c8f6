"""A folder of a Qwen-VL model in Hugging Face's format, with a processor made from nothing.

Token = UTF-8 byte; Qwen's special tokens, its image processor, a chat template.

The special tokens, their names and their order around a picture are those of
https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCAB_SIZE = 256 + len(SPECIAL)
ID = {token: 256 + index for index, token in enumerate(SPECIAL)}
BOS = PAD = ID["<|endoftext|>"]
EOS = ID["<|im_end|>"]
MARKS = {
    "image_token_id": ID["<|image_pad|>"],
    "video_token_id": ID["<|video_pad|>"],
    "vision_start_token_id": ID["<|vision_start|>"],
    "vision_end_token_id": ID["<|vision_end|>"],
}
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def tokenizer() -> Any:
    """The tokenizer; ids 0 to 255 are the bytes, in order, 256 and on the special tokens."""
    letters = {_letter_of(byte): byte for byte in range(256)}
    bytes_only = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens(list(SPECIAL))
    # unk_token, which is never needed, would otherwise become a token of its own.
    return transformers.Qwen2TokenizerFast(
        tokenizer_object=bytes_only,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def processor(family: str, min_tokens: int, max_tokens: int) -> Any:
    """A processor that scales every picture so that it takes ``min_tokens`` to ``max_tokens`` tokens.

    Args:
        family: ``qwen2vl``, ``qwen25vl`` (28 pixels a side of a token) or ``qwen3vl`` (32).
    """
    patch = 16 if family == "qwen3vl" else 14
    area = (2 * patch) ** 2
    images = transformers.Qwen2VLImageProcessor(
        patch_size=patch, min_pixels=min_tokens * area, max_pixels=max_tokens * area
    )
    processors = {
        "qwen2vl": (transformers.Qwen2VLProcessor, transformers.Qwen2VLVideoProcessor),
        "qwen25vl": (transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor),
        "qwen3vl": (transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor),
    }
    whole, video = processors[family]
    return whole(image_processor=images, tokenizer=tokenizer(), video_processor=video(), chat_template=CHAT_TEMPLATE)


def save(model: Any, folder: Path, family: str, *, min_tokens: int, max_tokens: int) -> None:
    """Write the model, in Hugging Face's format and with its processor, into ``folder``; replaces what is there."""
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    model.save_pretrained(folder)
    processor(family, min_tokens, max_tokens).save_pretrained(folder)
    # In transformers 4.57 these configurations hand what is set on them to their text part, and lose it themselves.
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["architectures"] = [type(model).__name__]
    config["tie_word_embeddings"] = config["text_config"].get("tie_word_embeddings", False)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _letter_of(byte: int) -> str:
    """The printable character by which byte-level BPE writes a byte (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))
