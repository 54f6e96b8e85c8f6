"""Read a NeMo 2.0 checkpoint of a multimodal model: `context/io.json` and `weights/`, as nemo-toolkit 2.x writes it.

Neither nemo-toolkit nor torch is needed, and nothing that the checkpoint names is imported.
"""

import json
from pathlib import Path
from typing import Any

from trition_repo_gen.checkpoints import index, processors, shards
from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.checkpoint_kind import CheckpointKind, RanksEnvironment, ReadOptions
from trition_repo_gen.errors import CheckpointError
from trition_repo_gen.runtime.common.settings import Dtype
from trition_repo_gen.runtime.rank.engines.images import families
from trition_repo_gen.runtime.rank.engines.images.families import Family
from trition_repo_gen.runtime.rank.loaders.nemo2_graph import IO_JSON, Config, Graph, GraphError
from trition_repo_gen.runtime.rank.loaders.nemo2_names import Symbol
from trition_repo_gen.runtime.rank.loaders.processors import nemo2_folders

# Sizes that a checkpoint leaves to the class of its language model's configuration (nemo-toolkit 2.7.3,
# llm/gpt/model/qwen2.py), in the order of _SIZES.
_SIZES = ("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size")
_LANGUAGE_PRESETS = {
    "Qwen2Config1P5B": (28, 1536, 12, 2, 8960, 151936),
    "Qwen25Config1P5B": (28, 1536, 12, 2, 8960, 151936),
    "Qwen25Config3B": (36, 2048, 16, 2, 11008, 151936),
    "Qwen2Config7B": (28, 3584, 28, 4, 18944, 152064),
    "Qwen25Config7B": (28, 3584, 28, 4, 18944, 152064),
    "Qwen25Config14B": (48, 5120, 40, 8, 13824, 152064),
    "Qwen25Config32B": (64, 5120, 40, 8, 27648, 152064),
    "Qwen2Config72B": (80, 8192, 64, 8, 29568, 152064),
    "Qwen25Config72B": (80, 8192, 64, 8, 29568, 152064),
}
_MODEL_PRESETS = {name: preset for family in families.NEMO2.values() for name, preset in family.presets.items()}
_FAMILY_OF_PRESET = {name: family for family in families.NEMO2.values() for name in family.presets}
_HEAD_SIZE = 128
"""Twice the sum of the rotary sections that `Qwen2VLConfig.__post_init__` sets (`vlm/qwen2vl/model/base.py`, 2.7.3)."""
_VISION_HEADS = 16


def _find_root(path: Path) -> Path | None:
    """Return the root of the checkpoint that `path` is, or is a folder of; see `CheckpointKind.find_root`."""
    for root in [path, path.parent] if path.name in ("context", "weights") else [path]:
        if (root / "context" / IO_JSON).is_file() or ((root / "context").is_dir() and (root / "weights").is_dir()):
            return root
    return None


def _instead(root: Path) -> str:
    return (
        f"write --multimodal --nemo-checkpoint {root} if it is a multimodal model, and convert an LLM with "
        "Megatron-Bridge"
    )


def _read(path: Path, options: ReadOptions) -> Checkpoint:
    """Read the checkpoint at a path, its root or one of its two folders; see `CheckpointKind.read`."""
    root = _find_root(path) or path
    weights_bytes = _check_complete(root)
    try:
        model = Graph(root / "context").model
    except GraphError as error:
        raise CheckpointError(str(error)) from None
    family = _family(root, model)
    if isinstance(model.get("model_transform"), Config):
        raise CheckpointError(
            f"{root} holds a {model.get('model_transform').target.name} adapter without its base model; "
            "merge both with NeMo's llm.peft.merge_lora and write the merged checkpoint."
        )
    if options.needs_tokenizer and processors.held(nemo2_folders(root)) is None:
        raise CheckpointError(
            f"{root} holds no processor: neither a folder of its context nor processor has a {processors.MARKER}; "
            "write --processor-name with the folder or the hub's name of the Hugging Face model that it was made from."
        )
    return _checkpoint(root, model.get("config"), family, weights_bytes)


def _check_complete(root: Path) -> int:
    """Return the size of all shards in bytes.

    Raises:
        CheckpointError: a part is missing, or the weights are in an older format.
    """
    weights = root / "weights"
    try:
        shards.require(root / "context" / IO_JSON)
        if not weights.is_dir():
            raise shards.IncompleteError("it has no folder weights")
        saved_as = _backend(weights)
        if saved_as not in ("torch_dist", ""):
            raise CheckpointError(f"{root} was saved as {saved_as}; save it with NeMo as torch_dist.")
        return shards.size(weights)
    except shards.IncompleteError as error:
        raise CheckpointError(f"{root} is half-written: {error}; copy or save it again.") from None


def _backend(weights: Path) -> str:
    try:
        return str(json.loads((weights / "metadata.json").read_bytes())["sharded_backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _family(root: Path, model: Config) -> Family:
    name, config = model.target.name, model.get("config")
    if not model.target.module.startswith("nemo.collections.vlm"):
        raise CheckpointError(
            f"{root} is a NeMo 2.0 checkpoint of {name}, which is no model with images; export a language model with "
            "NeMo's llm.export_ckpt, import that with Megatron-Bridge and write --megatron-checkpoint."
        )
    family = families.NEMO2.get(name, Family(name=name, reason="it is not known here"))
    if not family.served:
        raise CheckpointError(
            f"{root} is a {family.name} model, which is not served: {family.reason}; "
            f"of NeMo 2.0's multimodal models {families.served_names(families.NEMO2)} are."
        )
    vision = config.get("vision_transformer_config")
    if isinstance(vision, Config):
        return families.NEMO2.get(vision.target.name, family)
    if preset := _FAMILY_OF_PRESET.get(config.target.name):
        return preset
    return families.NEMO_QWEN25_VL if model.get("model_version") == "qwen25-vl" else family


def _checkpoint(root: Path, config: Config, family: Family, weights_bytes: int) -> Checkpoint:
    language = config.get("language_transformer_config")
    preset = _MODEL_PRESETS.get(config.target.name)
    vision_ffn = preset.vision_ffn_hidden_size if preset else family.vision_ffn_hidden_size
    language_class = language.target.name if isinstance(language, Config) else preset.language if preset else ""
    defaults = dict(zip(_SIZES, _LANGUAGE_PRESETS.get(language_class, ()), strict=False))

    def size(name: str, default: int | None = None) -> int:
        value = config.get("language_transformer_config", name)
        value = defaults.get(name, default) if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"{root / 'context' / IO_JSON} says {name}: {value} of the language model; a checkpoint that can be "
                "served has a positive number there."
            )
        return value

    def vision(name: str, default: int) -> int:
        value = config.get("vision_transformer_config", name)
        return value if isinstance(value, int) and value > 0 else default

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    kv_channels = size("kv_channels", max(hidden // heads, 1))
    if kv_channels != _HEAD_SIZE:
        raise CheckpointError(
            f"{root} has attention heads of size {kv_channels}, which nemo-toolkit's class cannot run: its rotary "
            f"embedding is for heads of {_HEAD_SIZE}; use a model of that family's sizes."
        )
    return Checkpoint(
        kind="nemo2",
        root=root,
        iteration=root,
        family=family.name,
        dtype=_dtype(config),
        weights_bytes=weights_bytes,
        shapes=index.shapes(root / "weights"),
        num_layers=size("num_layers"),
        hidden_size=hidden,
        ffn_hidden_size=size("ffn_hidden_size", 4 * hidden),
        num_attention_heads=heads,
        num_query_groups=size("num_query_groups", heads),
        kv_channels=kv_channels,
        multi_latent_attention=False,
        vocab_size=size("vocab_size"),
        pads_vocab=True,
        max_sequence_length=family.max_sequence_length,
        multimodal=True,
        num_vision_attention_heads=vision("num_attention_heads", _VISION_HEADS),
        vision_ffn_hidden_size=vision("ffn_hidden_size", vision_ffn),
        tokenizer="",
        tokenizer_type="",
    )


def _dtype(config: Config) -> Dtype:
    parts = [config, config.get("language_transformer_config")]
    for part in parts:
        values: dict[str, Any] = dict(part.arguments) if isinstance(part, Config) else {}
        if values.get("bf16"):
            return "bfloat16"
        if values.get("fp16"):
            return "float16"
        match values.get("params_dtype"):
            case Symbol(module="torch", name="bfloat16"):
                return "bfloat16"
            case Symbol(module="torch", name="float16" | "half"):
                return "float16"
    return "float32"


KIND = CheckpointKind(
    name="nemo2",
    title="NeMo 2.0",
    multimodal_only=True,
    marks=(f"context/{IO_JSON}",),
    folder="the folder that NeMo saved, with context and weights in it",
    find_root=_find_root,
    instead=_instead,
    read=_read,
    environment=RanksEnvironment(
        packages=("nemo-toolkit", "megatron-core", "torch", "transformers", "pillow"),
        install="trgen environment --nemo FOLDER",
        python_variable="TRGEN_NEMO_PYTHON",
        below=("nemo-toolkit", 3),
    ),
)
