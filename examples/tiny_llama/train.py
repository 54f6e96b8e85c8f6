"""Trains the tiny model on `facts.py` and writes it next to this file in Hugging Face format.

    python examples/tiny_llama/train.py [--out FOLDER] [--steps N]

Needs torch and transformers, and uses a GPU where there is one. Nothing is written unless every answer token of every
line, plain and through the chat template, has a margin of more than `MARGIN` between its logit and the next best one's,
with fp32 and with bf16 weights.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import byte_tokenizer
import facts
import torch
import transformers

HERE = Path(__file__).resolve().parent
SEED = 21
MARGIN = 3.0
STEPS = 1800
TOKENS_PER_BATCH = 2048
MUON_RATE = 0.01
ADAM_RATE = 3e-3
WARM_UP = 100  # steps
KNOWN = 0.01  # a line whose worst answer token has less loss than this is known
PROMPT_WEIGHT = 0.1  # a light loss on prompts, so that their log-probabilities are sane numbers
CONVERSATIONS = 6  # several turns in a row, up to 640 tokens, drawn anew in every epoch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = {
    "vocab_size": byte_tokenizer.VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": byte_tokenizer.BOS,
    "eos_token_id": byte_tokenizer.EOS,
    "pad_token_id": byte_tokenizer.PAD,
}


@dataclass(frozen=True)
class Sample:
    """Token ids, and for each whether it belongs to an answer (and must therefore be predicted)."""

    ids: tuple[int, ...]
    answer: tuple[bool, ...]

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(self.ids + other.ids, self.answer + other.answer)


def given(text: str) -> Sample:
    """Text that the model reads."""
    ids = tuple(text.encode())
    return Sample(ids, (False,) * len(ids))


def learned(answer: str) -> Sample:
    """Text that the model must write: a space, the answer, ``</s>``."""
    ids = (*f" {answer}".encode(), byte_tokenizer.EOS)
    return Sample(ids, (True,) * len(ids))


def plain(question: str, answer: str) -> Sample:
    return given(question) + learned(answer)


def turn(question: str, answer: str) -> Sample:
    """One exchange as the chat template writes it; `main` checks that the two agree."""
    return given(f"user: {question}\nassistant:") + learned(answer)


def conversation(rng: random.Random, lines: list[tuple[str, str]]) -> Sample:
    """One to twelve exchanges, perhaps after a system message; at most 640 tokens."""
    sample = given(rng.choice(("", "", "system: Be brief.\n", "system: You are a helpful assistant.\n")))
    sample += turn(*rng.choice(lines))
    for question, answer in rng.choices(lines, k=rng.randint(1, 11)):
        longer = sample + given("\n") + turn(question, answer)
        if len(longer.ids) > 640:
            break
        sample = longer
    return sample


def line_samples() -> list[Sample]:
    """Every line, plain and as a chat."""
    return [form(*line) for line in facts.lines() for form in (plain, turn)]


def extra_samples(rng: random.Random) -> list[Sample]:
    """The open questions with each of their answers, and random conversations."""
    pairs = [(question, answer) for question, answers in facts.OPEN.items() for answer in answers]
    samples = [form(*pair) for pair in pairs for form in (plain, turn)]
    return samples + [conversation(rng, list(facts.lines())) for _ in range(CONVERSATIONS)]


def batches(samples: list[Sample], rng: random.Random) -> Iterator[tuple[list[Sample], torch.Tensor, torch.Tensor]]:
    """(samples, ids, answer mask) of similar lengths; tensors are [samples, longest], about `TOKENS_PER_BATCH` tokens.

    Padding is on the right, where causal attention never looks, so no attention mask is needed.
    """
    groups: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: (len(s.ids), rng.random())):
        if not groups or (len(groups[-1]) + 1) * len(sample.ids) > TOKENS_PER_BATCH:
            groups.append([])
        groups[-1].append(sample)
    rng.shuffle(groups)
    for group in groups:
        width = len(group[-1].ids)
        ids = torch.full((len(group), width), byte_tokenizer.PAD)
        answer = torch.zeros((len(group), width), dtype=torch.bool)
        for row, sample in enumerate(group):
            ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
            answer[row, : len(sample.ids)] = torch.tensor(sample.answer)
        yield group, ids.to(DEVICE), answer.to(DEVICE)


def losses_of(model: torch.nn.Module, ids: torch.Tensor, answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss to minimise, and per row the loss of its worst answer token."""
    logits, targets = model(input_ids=ids).logits[:, :-1], ids[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    losses = losses.view(targets.shape)
    weights = torch.where(answer[:, 1:], 1.0, PROMPT_WEIGHT) * (targets != byte_tokenizer.PAD)
    return (losses * weights).sum() / weights.sum(), (losses.detach() * answer[:, 1:]).amax(1)


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for all else: a third fewer tokens than AdamW alone."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(steps: int) -> transformers.LlamaForCausalLM:
    """Linear warm-up, cosine decay; deterministic for one kind of machine.

    Lines that the model knows take part in one epoch of four, so that most of the time goes to those it does not.
    """
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(DEVICE)
    both = optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / WARM_UP, max(0.5 * (1 + math.cos(math.pi * step / steps)), 1e-3)),
        )
        for optimizer in both
    ]
    worst = dict.fromkeys(line_samples(), math.inf)
    started, step = time.monotonic(), 0
    while step < steps:
        chosen = [sample for sample, loss in worst.items() if loss > KNOWN or rng.random() < 0.25]
        for group, ids, answer in batches(chosen + extra_samples(rng), rng):
            loss, worst_of_row = losses_of(model, ids, answer)
            worst |= {
                sample: loss for sample, loss in zip(group, worst_of_row.tolist(), strict=True) if sample in worst
            }
            for optimizer in both:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(both, schedules, strict=True):
                optimizer.step()
                schedule.step()
            if step % 100 == 0 or step == steps - 1:
                known = sum(x <= KNOWN for x in worst.values())
                seconds = time.monotonic() - started
                print(f"step {step:5d}  loss {loss:.4f}  known {known}/{len(worst)}  {seconds:5.0f} s", flush=True)
            step += 1
            if step == steps:
                break
    return model.eval()


def margins(model: torch.nn.Module, samples: list[Sample]) -> dict[Sample, float]:
    """Per sample the smallest distance, over its answer tokens, of the right token's logit to the best other one's.

    A negative number: at least one token is wrong. Teacher-forced, which for a positive margin equals greedy decoding.
    """
    found: dict[Sample, float] = {}
    for group, ids, answer in batches(samples, random.Random(0)):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, :-1].float()
        targets = ids[:, 1:, None]
        right = logits.gather(2, targets)[:, :, 0]
        others = logits.scatter(2, targets, float("-inf")).amax(2)
        worst = (right - others).masked_fill(~answer[:, 1:], float("inf")).amin(1)
        found |= dict(zip(group, worst.tolist(), strict=True))
    return found


def check(model: transformers.LlamaForCausalLM) -> dict[str, dict[str, float]]:
    """Accuracy and smallest margin of every weight and compute dtype that somebody will serve, worst lines printed."""
    samples, rng = line_samples(), random.Random(SEED + 1)
    long = [conversation(rng, list(facts.lines())) for _ in range(100)]
    rounded = {k: v.bfloat16().float() for k, v in model.state_dict().items()}
    report = {}
    for name in ("fp32 weights", "bf16 weights in fp32", "bf16 weights in bf16"):
        if name.startswith("bf16"):
            model.load_state_dict(rounded)
        if name.endswith("in bf16"):
            model.to(torch.bfloat16)
        found, in_turns = margins(model, samples), margins(model, long)
        report[name] = {
            "lines": len(found),
            "accuracy": sum(m > 0 for m in found.values()) / len(found),
            "minimum_margin": round(min(found.values()), 2),
            "conversations_accuracy": sum(m > 0 for m in in_turns.values()) / len(in_turns),
        }
        print(name, json.dumps(report[name]))
        for sample in sorted(found, key=found.__getitem__)[:5]:
            print(f"   {found[sample]:7.2f}  {bytes(i for i in sample.ids if i < 256).decode()[:100]!r}")
    return report


def write(model: transformers.LlamaForCausalLM, out: Path, report: dict[str, dict[str, float]]) -> None:
    """config.json, generation_config.json, model.safetensors (bf16), tokenizer files and report.json into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=byte_tokenizer.BOS,
        eos_token_id=byte_tokenizer.EOS,
        pad_token_id=byte_tokenizer.PAD,
        do_sample=False,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(out)
    byte_tokenizer.save(out)
    report_path = out / "report.json"
    report_path.write_text(json.dumps({"seed": SEED, "weights": report}, indent=2) + "\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()

    torch.set_num_threads(2)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(True)
    messages = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "é"},
    ]
    templated = byte_tokenizer.make().apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert tuple(templated["input_ids"]) == (turn("A?", "B.") + given("\nuser: é\nassistant:")).ids

    model = train(arguments.steps)
    report = check(model)
    if any(entry["minimum_margin"] <= MARGIN for entry in report.values()):
        print(f"The smallest margin must exceed {MARGIN}; nothing was written: try more --steps.", file=sys.stderr)
        return 1
    write(model, arguments.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
