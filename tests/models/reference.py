"""Hugging Face's answers and log-probabilities for given prompts, as JSON: what the served model is compared with.

    python tests/models/reference.py PROMPTS.json OUT HF_FOLDER ... [--max-new-tokens N] [--top-n N] [--ignore-eos]

Prompts are a JSON list of strings (with --chat: of strings or of message lists). Writes OUT/NAME.json for each folder,
NAME being the folder's. Runs in the environment of the ranks: torch and transformers, on the CPU in fp32 unless --dtype
says otherwise. Several folders share one start of the libraries.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def answer(
    model: Any,
    tokenizer: Any,
    prompt: str | list[dict[str, str]],
    new_tokens: int,
    top_n: int,
    ignore_eos: bool,
    chat: bool,
) -> dict[str, Any]:
    """One prompt's record.

    Keys: ``prompt``; ``prompt_text`` (after the chat template); ``prompt_ids`` [P]; ``generated_ids`` [G], G at most
    ``new_tokens``, with the end token if it was generated; ``text``, the generated ids without special tokens;
    ``finish_reason``, ``stop`` or ``length``; ``prompt_log_probs`` [P - 1], of tokens 1 to P - 1 given those before;
    ``generated_log_probs`` [G]; ``prompt_top_log_probs`` and ``generated_top_log_probs``, per position a list of
    ``[id, log-probability]``, best first; ``margin``, the smallest distance of best to second-best logit over the
    generated tokens. Natural logarithms.
    """
    text = prompt
    if chat:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    inputs = torch.tensor([prompt_ids])
    eos = tokenizer.eos_token_id
    # A configuration of its own: None given as an argument would mean «as the model says», and min_new_tokens would
    # forbid the end token, which an engine told to go on does not.
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=None if ignore_eos else eos,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.no_grad():
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        logits = model(input_ids=output).logits[0, :-1].float()
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(1, output[0, 1:, None])[:, 0].tolist()
    values, ids = log_probs.topk(max(top_n, 2))
    top = [
        [[i, v] for i, v in zip(*sequence, strict=True)][:top_n]
        for sequence in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    generated, first = output[0, len(prompt_ids) :].tolist(), len(prompt_ids) - 1
    best = logits[first:].topk(2).values
    return {
        "prompt": prompt,
        "prompt_text": text,
        "prompt_ids": prompt_ids,
        "generated_ids": generated,
        "text": tokenizer.decode(generated, skip_special_tokens=True),
        "finish_reason": "stop" if not ignore_eos and generated[-1] == eos else "length",
        "prompt_log_probs": chosen[:first],
        "generated_log_probs": chosen[first:],
        "prompt_top_log_probs": top[:first],
        "generated_top_log_probs": top[first:],
        "margin": (best[:, 0] - best[:, 1]).min().item(),
    }


def answers(
    folder: Path,
    prompts: list[Any],
    new_tokens: int = 32,
    top_n: int = 5,
    ignore_eos: bool = False,
    chat: bool = False,
    dtype: str = "float32",
) -> list[dict[str, Any]]:
    """`answer` for every prompt, each generated alone, with the model of ``folder``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config = transformers.GenerationConfig()  # else its end token would fill in for None
    return [answer(model, tokenizer, prompt, new_tokens, top_n, ignore_eos, chat) for prompt in prompts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path, metavar="PROMPTS.json")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("folders", nargs="+", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--top-n", type=int, default=5)
    parser.add_argument("--ignore-eos", action="store_true", help="always generate --max-new-tokens tokens")
    parser.add_argument("--chat", action="store_true", help="apply the chat template")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    prompts = json.loads(arguments.prompts.read_text("utf-8"))
    for folder in arguments.folders:
        records = answers(
            folder,
            prompts,
            arguments.max_new_tokens,
            arguments.top_n,
            arguments.ignore_eos,
            arguments.chat,
            arguments.dtype,
        )
        (arguments.out / f"{folder.name}.json").write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
