"""Read a Megatron-Bridge checkpoint: `iter_*` folders with `run_config.yaml`, `.metadata` and `*.distcp` shards.

`megatron/bridge/training/checkpointing.py` (0.6.2) writes it.
"""

import json
import re
from pathlib import Path
from typing import Any

from trition_repo_gen.checkpoints import foreign, index, processors, run_config, shards, text_families
from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.checkpoint_kind import CheckpointKind, RanksEnvironment, ReadOptions
from trition_repo_gen.checkpoints.megatron_folders import RUN_CONFIG, TRACKER, is_iteration, iterations
from trition_repo_gen.errors import CheckpointError
from trition_repo_gen.runtime.common.settings import Dtype
from trition_repo_gen.runtime.rank.engines.images import families
from trition_repo_gen.runtime.rank.engines.images.families import Family

_PROVIDER_SUFFIX = re.compile(r"(Model)?(Provider|Config)$")
_MULTIMODAL = re.compile(r"VL|Vision|Omni|Llava|Audio|GLM45V")
"""In the name of a provider that is not in `families`."""


def _find_root(path: Path) -> Path | None:
    """Return the root of the checkpoint that `path` is, or is an iteration of; see `CheckpointKind.find_root`."""
    if not path.is_dir() or foreign.sentence(path):
        return None
    if is_iteration(path):
        return path.parent if (path.parent / TRACKER).is_file() else path
    return path if (path / TRACKER).is_file() or iterations(path) else None


def _read(path: Path, options: ReadOptions) -> Checkpoint:
    """Read the checkpoint at a path, its root or one of its `iter_*` folders; see `CheckpointKind.read`."""
    root, iteration = _find_iteration(path)
    weights_bytes = _check_complete(iteration)
    config = run_config.load(iteration / RUN_CONFIG)
    family = _check_served(iteration, config, options.multimodal)
    return _checkpoint(root, iteration, config, weights_bytes, options.needs_tokenizer, family)


def _find_iteration(path: Path) -> tuple[Path, Path]:
    """Return the root and the iteration that its tracker names, the newest where there is no tracker."""
    if is_iteration(path):
        return (path.parent if (path.parent / TRACKER).is_file() else path), path
    found = iterations(path)
    tracker = path / TRACKER
    if tracker.is_file():
        text = tracker.read_text(errors="replace").strip()
        iteration = path / (f"iter_{int(text):07d}" if text.isdigit() else text or "iter_")
        if iteration.is_dir():
            return path, iteration
        instead = f"write {found[-1]}, which is there" if found else "copy or save it again"
        raise CheckpointError(
            f"{path} is half-written: {tracker.name} names {iteration.name}, which is not there; {instead}."
        )
    return path, found[-1]


def _check_complete(iteration: Path) -> int:
    """Return the size of all shards in bytes.

    Raises:
        CheckpointError: a part of the checkpoint is missing.
    """

    def half_written(what: str) -> CheckpointError:
        others = [path for path in iterations(iteration.parent) if path != iteration]
        instead = (
            f"copy or save it again, or write another iteration such as {others[-1]}"
            if others
            else "copy or save it again"
        )
        return CheckpointError(f"{iteration} is half-written: {what}; {instead}.")

    if not (iteration / RUN_CONFIG).is_file() and (iteration / "common.pt").is_file():
        raise CheckpointError(
            f"{iteration} is a Megatron-LM checkpoint without {RUN_CONFIG}; load it with Megatron-Bridge's "
            "load_megatron_model and save it with save_megatron_model."
        )
    try:
        shards.require(iteration / RUN_CONFIG)
        return shards.size(iteration)
    except shards.IncompleteError as error:
        raise half_written(str(error)) from None


def _check_served(iteration: Path, config: dict[str, Any], multimodal: bool) -> Family | None:
    """Return the family of a multimodal model, None for a language model.

    Raises:
        CheckpointError: the model is not served, or it takes images and was not asked for as such, or the reverse.
    """
    saved_as = (config.get("checkpoint") or {}).get("ckpt_format") or "torch_dist"
    if saved_as != "torch_dist":
        raise CheckpointError(f"{iteration} was saved as {saved_as}; save it with checkpoint.ckpt_format torch_dist.")
    if config.get("peft"):
        raise CheckpointError(
            f"{iteration} holds a {run_config.target(config['peft']) or 'PEFT'} adapter without its base model; "
            "merge both with Megatron-Bridge and write the merged checkpoint."
        )
    provider = run_config.target(config["model"])
    takes_images = "vision_config" in config["model"] or _MULTIMODAL.search(provider)
    if not takes_images:
        if multimodal:
            raise CheckpointError(f"{iteration} is a {provider}, which reads text only; leave out --multimodal.")
        if refusal := text_families.refusal(provider, config["model"]):
            raise CheckpointError(f"{iteration} {refusal}")
        return None
    family = families.MEGATRON_BRIDGE.get(provider, Family(name=provider, reason="it is not known here"))
    if not family.served:
        raise CheckpointError(
            f"{iteration} is a {family.name} model, which is not served: {family.reason}; "
            f"of Megatron-Bridge's multimodal models {families.served_names(families.MEGATRON_BRIDGE)} are."
        )
    if not multimodal:
        raise CheckpointError(f"{iteration} is a {family.name} model, which takes images; write --multimodal, too.")
    return family


def _checkpoint(
    root: Path,
    iteration: Path,
    config: dict[str, Any],
    weights_bytes: int,
    needs_tokenizer: bool,
    multimodal: Family | None,
) -> Checkpoint:
    # Builders nest the sizes under `transformer`, providers have them side by side.
    model = {**config["model"], **(config["model"].get("transformer") or {})}

    def size(key: str, default: int | None = None) -> int:
        value = model.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"{iteration / RUN_CONFIG} says {key}: {model.get(key)}; a checkpoint that can be served "
                "has a positive number there."
            )
        return value

    heads, hidden, experts = size("num_attention_heads"), size("hidden_size"), model.get("num_moe_experts") or 0
    ffn = size("ffn_hidden_size", 4 * hidden)
    latents = bool(model.get("multi_latent_attention"))
    tokenizer, tokenizer_type, processor, vision = "", "", "", None
    if multimodal is None:
        tokenizer, tokenizer_type = _tokenizer(iteration, config.get("tokenizer") or {}, needs_tokenizer)
    else:
        processor = _processor(iteration, model, needs_tokenizer)
        vision = model.get("vision_config") if multimodal.shares_vision else None
    return Checkpoint(
        kind="megatron_bridge",
        root=root,
        iteration=iteration,
        family=multimodal.name if multimodal else _family(config["model"], iteration),
        dtype=_dtype(model),
        weights_bytes=weights_bytes,
        shapes=index.shapes(iteration),
        num_layers=size("num_layers"),
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=size("num_query_groups", heads),
        kv_channels=size("kv_channels", max(hidden // heads, 1)),
        multi_latent_attention=latents,
        # Megatron Core's defaults (0.19.2, transformer_config.py, MLATransformerConfig).
        kv_latent_size=size("kv_lora_rank", 512) + size("qk_pos_emb_head_dim", 64) if latents else 0,
        vocab_size=model.get("vocab_size"),
        pads_vocab=bool(model.get("should_pad_vocab")),
        make_vocab_size_divisible_by=size("make_vocab_size_divisible_by", 128),
        max_sequence_length=multimodal.max_sequence_length if multimodal else size("seq_length"),
        num_moe_experts=experts,
        moe_ffn_hidden_size=size("moe_ffn_hidden_size", ffn) if experts else 0,
        moe_shared_expert_size=model.get("moe_shared_expert_intermediate_size") or 0,
        moe_router_topk=size("moe_router_topk", 2) if experts else 0,
        has_dense_layers=not experts or model.get("moe_layer_freq", 1) != 1,
        multimodal=multimodal is not None,
        num_vision_attention_heads=_plain_size(vision, "num_heads"),
        vision_ffn_hidden_size=_plain_size(vision, "intermediate_size"),
        processor=processor,
        tokenizer=tokenizer,
        tokenizer_type=tokenizer_type,
    )


def _plain_size(section: Any, key: str) -> int:
    value = section.get(key) if isinstance(section, dict) else 0
    return value if isinstance(value, int) else 0


def _processor(iteration: Path, model: dict[str, Any], needed: bool) -> str:
    """Return the processor of the model that the checkpoint was converted from; empty if the ranks find another one."""
    source = str(model.get("hf_model_id") or "")
    if not needed or processors.held([iteration / "tokenizer"]):
        return ""
    if source and processors.is_processor(Path(source)):
        return str(Path(source).absolute())
    if processors.is_hub_name(source) and not Path(source).exists():
        return source
    what = f", and {source}, which it was converted from, has none either" if source else ""
    raise CheckpointError(
        f"{iteration} holds no processor: its folder tokenizer has no {processors.MARKER}{what}; "
        "write --processor-name with the folder or the hub's name of the Hugging Face model."
    )


def _dtype(model: dict[str, Any]) -> Dtype:
    # The flags decide: mixed precision leaves `params_dtype` at float32 but stores the model in the flag's dtype.
    if model.get("bf16"):
        return "bfloat16"
    if model.get("fp16"):
        return "float16"
    match run_config.target(model.get("params_dtype")):
        case "bfloat16":
            return "bfloat16"
        case "float16" | "half":
            return "float16"
        case _:
            return "float32"


def _family(model: dict[str, Any], iteration: Path) -> str:
    """Return Hugging Face's model type if a config.json is at hand, else the name of Megatron-Bridge's provider."""
    source = model.get("hf_model_id")
    for folder in (iteration / "tokenizer", Path(str(source)) if source else None):
        try:
            if folder is not None and (name := json.loads((folder / "config.json").read_bytes()).get("model_type")):
                return str(name)
        except (OSError, ValueError):
            continue
    name = _PROVIDER_SUFFIX.sub("", run_config.target(model)).lower()
    return name or "gpt"


def _tokenizer(iteration: Path, config: dict[str, Any], needed: bool) -> tuple[str, str]:
    """Return the tokenizer's folder or hub name, and its type.

    The saved path comes second: it may be that of another machine.

    Raises:
        CheckpointError: there is none, and one is needed.
    """
    kind = str(config.get("tokenizer_type") or "")
    folder = iteration / "tokenizer"
    if folder.is_dir() and any(folder.iterdir()):
        return str(folder), kind
    saved = str(config.get("tokenizer_model") or "")
    # A hub's name looks like a relative path of at most two parts; it is a name where no such path exists.
    is_hub_name = bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", saved)) and not saved.startswith(".")
    if saved and Path(saved).exists():
        return str(Path(saved).absolute()), kind
    if is_hub_name or not needed:
        return saved, kind
    what = f"the one it was saved with, {saved}, is not there" if saved else "names none"
    raise CheckpointError(f"{iteration} holds no tokenizer and {what}; write --tokenizer PATH.")


KIND = CheckpointKind(
    name="megatron_bridge",
    title="Megatron-Bridge",
    marks=(TRACKER, "an iter_* folder"),
    folder="the folder that Megatron-Bridge saved",
    find_root=_find_root,
    instead=lambda root: f"write --megatron-checkpoint {root}",
    read=_read,
    environment=RanksEnvironment(
        packages=("megatron-bridge", "megatron-core", "torch"),
        lock="locks/megatron.txt (on a GPU machine, locks/megatron-gpu.txt)",
    ),
)
