"""Trains the tiny model on `pictures.py` and writes it next to this file in Hugging Face format.

    python examples/tiny_qwen_vl/train.py [--out FOLDER] [--steps N]

Runs in NeMo's environment, and uses a GPU where there is one. First the vision tower learns to tell colours and shapes
apart, which is most of the work and needs no text; then the whole model learns to answer. Every step draws new
pictures. Nothing is written unless `RIGHT` of the greedy answers to all questions about pictures that were never
trained on are right, with fp32 and with bf16 weights.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pictures
import qwen_folder
import torch
import transformers

HERE = Path(__file__).resolve().parent
SEED = 7
UNSEEN_SEED = 1_000_003
UNSEEN = 400
RIGHT = 0.98
VISION_STEPS = 1000
VISION_BATCH = 32  # pictures
VISION_RATE = 4e-3
STEPS = 400
BATCH = 16  # pictures
MUON_RATE = 0.01
ADAM_RATE = 2e-3
LATER_VISION_RATE = 3e-4
WARM_UP = 50  # steps
MIN_TOKENS, MAX_TOKENS = 4, 16  # a picture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXT = {
    "vocab_size": qwen_folder.VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "bos_token_id": qwen_folder.BOS,
    "eos_token_id": qwen_folder.EOS,
    "pad_token_id": qwen_folder.PAD,
}
VISION = {
    "depth": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 4,
    "out_hidden_size": 256,
    "fullatt_block_indexes": [1],
    "window_size": 112,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}


@dataclass(frozen=True)
class Batch:
    """Conversations about pictures.

    Attributes:
        inputs: what the model takes; ids and mask are [conversations, longest], padded on the right.
        answer: whether a token has to be predicted, [conversations, longest].
    """

    inputs: dict[str, torch.Tensor]
    answer: torch.Tensor


class Examples:
    """Turns questions about pictures into batches, through the model's own processor and chat template."""

    def __init__(self) -> None:
        self._processor = qwen_folder.processor("qwen25vl", MIN_TOKENS, MAX_TOKENS)
        self._prompts: dict[tuple[str, ...], str] = {}

    def batch(self, drawn: list[tuple[pictures.Picture, list[str]]]) -> Batch:
        """One conversation a picture, which asks the picture's questions one after the other."""
        texts = [self._text(picture, questions) for picture, questions in drawn]
        inputs = self._processor(
            text=texts, images=[picture.image for picture, _ in drawn], padding=True, padding_side="right",
            return_tensors="pt",
        )  # fmt: skip
        ids = inputs["input_ids"]
        answer = torch.zeros_like(ids, dtype=torch.bool)
        begin = torch.tensor(self._processor.tokenizer("<|im_start|>assistant\n")["input_ids"])
        for row, tokens in enumerate(ids.unfold(1, len(begin), 1).eq(begin).all(-1)):
            for start in (tokens.nonzero()[:, 0] + len(begin)).tolist():
                end = start + int(ids[row, start:].eq(qwen_folder.EOS).nonzero()[0]) + 1
                answer[row, start:end] = True
        return Batch({name: tensor.to(DEVICE) for name, tensor in inputs.items()}, answer.to(DEVICE))

    def _text(self, picture: pictures.Picture, questions: list[str]) -> str:
        messages: list[dict[str, Any]] = []
        for question in questions:
            parts = [] if messages else [{"type": "image"}]
            messages += [
                {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
                {"role": "assistant", "content": picture.answer(question)},
            ]
        text: str = self._processor.apply_chat_template(messages, tokenize=False)
        return text


def logits_of(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [N, vocabulary] of all answer tokens, and the answer tokens [N]."""
    logits = model(**batch.inputs).logits[:, :-1]
    chosen = batch.answer[:, 1:]
    return logits[chosen], batch.inputs["input_ids"][:, 1:][chosen]


def schedules(optimizers: list[torch.optim.Optimizer], steps: int) -> list[torch.optim.lr_scheduler.LambdaLR]:
    """Linear warm-up, cosine decay."""

    def share(step: int) -> float:
        return min((step + 1) / WARM_UP, max(0.5 * (1 + math.cos(math.pi * step / steps)), 1e-3))

    return [torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]


def take_step(
    loss: torch.Tensor,
    parameters: Iterable[torch.nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
    schedules: list[torch.optim.lr_scheduler.LambdaLR],
) -> None:
    """One step against a loss."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for each in (*optimizers, *schedules):
        each.step()


def teach_vision(tower: torch.nn.Module, rng: random.Random, steps: int) -> None:
    """Train the vision tower with two linear classifiers of the mean over a picture's tokens, thrown away then."""
    classes = {"color": list(pictures.COLORS), "shape": list(pictures.SHAPES)}
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(TEXT["hidden_size"], len(c)) for name, c in classes.items()})
    parameters = [*tower.parameters(), *heads.to(DEVICE).parameters()]
    adam = [torch.optim.AdamW(parameters, lr=VISION_RATE, betas=(0.9, 0.98), weight_decay=0.0)]
    rates = schedules(adam, steps)
    images = qwen_folder.processor("qwen25vl", MIN_TOKENS, MAX_TOKENS).image_processor
    started = time.monotonic()
    for step in range(steps):
        drawn = [pictures.draw(rng) for _ in range(VISION_BATCH)]
        inputs = images([picture.image for picture in drawn], return_tensors="pt").to(DEVICE)
        grids = inputs["image_grid_thw"]
        tokens = tower(inputs["pixel_values"], grid_thw=grids).split((grids.prod(1) // 4).tolist())
        means = torch.stack([each.mean(0) for each in tokens])
        losses = {}
        for name, values in classes.items():
            wanted = torch.tensor([values.index(getattr(picture, name)) for picture in drawn], device=DEVICE)
            losses[name] = torch.nn.functional.cross_entropy(heads[name](means), wanted)
        take_step(sum(losses.values()), parameters, adam, rates)
        report(step, steps, started, {name: loss.item() for name, loss in losses.items()})


def teach_answers(model: torch.nn.Module, rng: random.Random, steps: int) -> None:
    """Train the whole model; Muon (Jordan et al. 2024) for the language model's matrices, AdamW for all else."""
    named = dict(model.named_parameters())
    tower = [p for name, p in named.items() if ".visual." in name]
    matrices = [p for name, p in named.items() if ".layers." in name and p.ndim == 2]
    rest = [p for name, p in named.items() if ".visual." not in name and not (".layers." in name and p.ndim == 2)]
    groups = [{"params": rest, "lr": ADAM_RATE}, {"params": tower, "lr": LATER_VISION_RATE}]
    both = [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = schedules(both, steps)
    examples, started = Examples(), time.monotonic()
    for step in range(steps):
        drawn = [(pictures.draw(rng), rng.sample(list(pictures.QUESTIONS), 2)) for _ in range(BATCH)]
        logits, answers = logits_of(model, examples.batch(drawn))
        loss = torch.nn.functional.cross_entropy(logits, answers)
        take_step(loss, list(named.values()), both, rates)
        right = (logits.argmax(1) == answers).float().mean().item()
        report(step, steps, started, {"loss": loss.item(), "right tokens": right})


def report(step: int, steps: int, started: float, numbers: dict[str, float]) -> None:
    """Print now and then how it goes."""
    if step % 50 == 0 or step == steps - 1:
        text = "  ".join(f"{name} {number:.4f}" for name, number in numbers.items())
        print(f"step {step:5d}  {text}  {time.monotonic() - started:5.0f} s", flush=True)


def train(vision_steps: int, steps: int) -> Any:
    """Deterministic for one kind of machine."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    model = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=TEXT, vision_config=VISION, tie_word_embeddings=False, **qwen_folder.MARKS
        )
    ).to(DEVICE)
    teach_vision(model.model.visual, rng, vision_steps)
    teach_answers(model, rng, steps)
    return model.eval()


def unseen() -> Iterator[list[tuple[pictures.Picture, list[str]]]]:
    """Every question about every one of `UNSEEN` pictures, each in a conversation of its own."""
    rng = random.Random(UNSEEN_SEED)
    for _ in range(UNSEEN):
        picture = pictures.draw(rng)
        yield [(picture, [question]) for question in pictures.QUESTIONS]


def margins(model: Any) -> list[float]:
    """Per answer the smallest distance, over its tokens, of the right token's logit to the best other one's.

    A negative number: at least one token is wrong. Teacher-forced, which for a positive margin equals greedy decoding.
    """
    examples, found = Examples(), []
    for drawn in unseen():
        batch = examples.batch(drawn)
        with torch.no_grad():
            logits, answers = logits_of(model, batch)
        right = logits.float().gather(1, answers[:, None])[:, 0]
        others = logits.float().scatter(1, answers[:, None], float("-inf")).amax(1)
        rows = batch.answer[:, 1:].sum(1).tolist()
        found += [margin.min().item() for margin in (right - others).split(rows)]
    return found


def check(model: Any) -> dict[str, dict[str, float]]:
    """Accuracy and margins of every weight and compute dtype that somebody will serve."""
    rounded = {name: weight.bfloat16().float() for name, weight in model.state_dict().items()}
    results = {}
    for name in ("fp32 weights", "bf16 weights in fp32", "bf16 weights in bf16"):
        if name.startswith("bf16"):
            model.load_state_dict(rounded)
        if name.endswith("in bf16"):
            model.to(torch.bfloat16)
        found = sorted(margins(model))
        results[name] = {
            "pictures": UNSEEN,
            "answers": len(found),
            "accuracy": round(sum(margin > 0 for margin in found) / len(found), 4),
            "margin_of_all_but_2_percent": round(found[len(found) // 50], 2),
            "median_margin": round(found[len(found) // 2], 2),
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # with matrices this small a second thread waits more than it works
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(True)
    model = train(arguments.vision_steps, arguments.steps)
    found = check(model)
    accuracy = min(entry["accuracy"] for entry in found.values())
    if accuracy < RIGHT:
        print(f"Not written: {accuracy:.4f} of the answers are right, not {RIGHT}.", file=sys.stderr)
        return 1
    model.to("cpu", torch.bfloat16)
    qwen_folder.save(model, arguments.out, "qwen25vl", min_tokens=MIN_TOKENS, max_tokens=MAX_TOKENS)
    document = {"seed": SEED, "unseen_seed": UNSEEN_SEED, "weights": found}
    (arguments.out / "report.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
