"""The byte-level tokenizer of the tiny models: id = byte value, then <s>, </s> and <pad>; no merges, nothing added."""

import json
from pathlib import Path

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BOS, EOS, PAD = 256, 257, 258
VOCAB_SIZE = 320  # 259 used; a multiple of 64, so that TP=2 and TP=4 shards stay aligned

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] }}: {{ message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""
"""A turn is ``role: content`` and a line feed; the model continues after ``assistant:`` with a space and its answer."""


def byte_to_character() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE, as in GPT-2 and `decoders.ByteLevel`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def make() -> transformers.PreTrainedTokenizerFast:
    """Any text to its UTF-8 bytes as ids 0-255; the three specials are recognised in text and skipped on request."""
    tokenizer = Tokenizer(models.BPE(vocab={c: b for b, c in byte_to_character().items()}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<s>", "</s>", "<pad>")])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )


def save(folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into ``folder``."""
    make().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 writes a name that 4.x does not know
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
