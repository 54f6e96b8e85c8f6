"""Write a tokenizer like Llama 2's for the tiny model: ▁ for spaces, bytes for what is not ASCII, <s> before a text.

    PYTHON spaced_tokenizer.py TINY_LLAMA OUT

The ids are the tiny model's: those of bytes, and its three special tokens. Its decoder leaves out a text's first space.
"""

import shutil
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

SPACE = "\u2581"


def main(source: Path, out: Path) -> None:
    """Write the tokenizer's folder."""
    names = [chr(byte) if 0x21 <= byte < 0x7F else f"<0x{byte:02X}>" for byte in range(256)]
    names[ord(" ")] = SPACE
    ids = {name: byte for byte, name in enumerate([*names, "<s>", "</s>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>", "<pad>")]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    out.mkdir(parents=True)
    tokenizer.save(str(out / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
