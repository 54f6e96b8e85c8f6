"""Small tokenizers of the kinds that language models have, trained or written here on a few lines."""

from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "Hello, my name is Ada. I'm 36 years old.",
    "  two spaces before,  two within, one behind ",
    "lines\nand\ttabs\n\n  def f(x):\r\n    return x",
    "naïve café, Ångström, Straße",
    "今日は良い天気です。漢字かな交じり文",
    "猫 and 犬",
    "한국어 문장",
    "👩‍🚀🙂👍🏽 flags 🇺🇳🇩🇪",
    "e\u0301 a\u0308 न\u092e\u0938\u094d\u0924\u0947 ß\u0302",
    "مرحبا بالعالم",
    "x",
    " ",
)
CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPACE = "\u2581"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level() -> Tokenizer:
    """As GPT-2's and Qwen's: bytes as printable characters, merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def tiktoken() -> Tokenizer:
    """As Llama 3's and GPT-4's: a split by a regular expression, then bytes, whole words before merges."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GPT4), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def sentencepiece(*, prefix: bool = True) -> Tokenizer:
    """As Llama 2's: spaces as ▁, one before every text, and a token for each byte that is in no other."""
    words = [f"{_SPACE}Hello", f"{_SPACE}my", f"{_SPACE}name", f"{_SPACE}and", f"{_SPACE}two", _SPACE]
    characters = sorted({*"".join(TEXTS[:5])} - {*" \n\t\r"})
    names = [f"<0x{byte:02X}>" for byte in range(256)] + words + characters
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    merges = []
    for word in words[:-1]:
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True))
    before = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_control_tokens(tokenizer)


def metaspace() -> Tokenizer:
    """As T5's and newer Mistrals': spaces as ▁ by pre-tokenizer and decoder."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0)], 0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, trainers.UnigramTrainer, unk_token="<unk>")


def wordpiece() -> Tokenizer:
    """As BERT's: words apart, ## before what goes on with a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "tiktoken": tiktoken,
    "sentencepiece": sentencepiece,
    "sentencepiece without prefix": lambda: sentencepiece(prefix=False),
    "metaspace": metaspace,
    "wordpiece": wordpiece,
}


def fast(tokenizer: Tokenizer, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Return the tokenizer as `transformers` has it, with a chat template."""
    if adds_bos:
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )


def _trained(tokenizer: Tokenizer, trainer: Any, **options: Any) -> Tokenizer:
    special = [options["unk_token"]] if "unk_token" in options else ["[UNK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainer(vocab_size=600, special_tokens=special, show_progress=False, **options)
    )
    return _with_control_tokens(tokenizer)


def _with_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    return tokenizer
