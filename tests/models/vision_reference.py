"""Hugging Face's greedy answers to conversations with images, as JSON: what the served model is compared with.

    python tests/models/vision_reference.py CASES.json OUT HF_FOLDER ... [--max-new-tokens N]

Cases are a JSON list of ``{"messages": [...], "images": [base64 of a PNG, ...]}``. Writes OUT/NAME.json for each
folder, NAME being the folder's. Runs in NeMo's environment, on the CPU in fp32. Several folders share one start of the
libraries.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image


def answer(model: Any, processor: Any, case: dict[str, Any], new_tokens: int) -> dict[str, Any]:
    """One case's record.

    Keys: ``prompt_text``, after the chat template; ``prompt_tokens``, how many, images included; ``generated_ids``
    [G], G at most ``new_tokens``, with the end token if it was generated; ``text``, these without special tokens;
    ``finish_reason``, ``stop`` or ``length``; ``generated_log_probs`` [G], natural logarithms; ``margin``, the smallest
    distance of best to second-best logit over the generated tokens.
    """
    text = processor.apply_chat_template(case["messages"], add_generation_prompt=True, tokenize=False)
    images = [Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB") for image in case["images"]]
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    eos = processor.tokenizer.eos_token_id
    config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=eos, pad_token_id=processor.tokenizer.pad_token_id
    )
    with torch.no_grad():
        output = model.generate(**inputs, generation_config=config)
        whole = {**inputs, "input_ids": output, "attention_mask": torch.ones_like(output)}
        logits = model(**whole).logits[0, :-1].float()
    first = inputs["input_ids"].shape[1] - 1
    generated = output[0, first + 1 :]
    log_probs = torch.log_softmax(logits[first:], dim=-1)
    best = logits[first:].topk(2).values
    return {
        "prompt_text": text,
        "prompt_tokens": first + 1,
        "generated_ids": generated.tolist(),
        "text": processor.tokenizer.decode(generated, skip_special_tokens=True),
        "finish_reason": "stop" if generated[-1] == eos else "length",
        "generated_log_probs": log_probs.gather(1, generated[:, None])[:, 0].tolist(),
        "margin": (best[:, 0] - best[:, 1]).min().item(),
    }


def answers(folder: Path, cases: list[dict[str, Any]], new_tokens: int) -> list[dict[str, Any]]:
    """`answer` for every case, each generated alone, with the model of ``folder``."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig()  # else its end token would fill in for None
    return [answer(model, processor, case, new_tokens) for case in cases]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, metavar="CASES.json")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("folders", nargs="+", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    arguments = parser.parse_args()
    cases = json.loads(arguments.cases.read_text("utf-8"))
    for folder in arguments.folders:
        records = answers(folder, cases, arguments.max_new_tokens)
        (arguments.out / f"{folder.name}.json").write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
