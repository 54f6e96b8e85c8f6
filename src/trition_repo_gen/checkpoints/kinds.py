"""Tells the kinds of checkpoint apart, so that a refusal can name what a folder is and what to do with it."""

from pathlib import Path

TRACKER = "latest_checkpointed_iteration.txt"
RUN_CONFIG = "run_config.yaml"
DCP_METADATA = ".metadata"


def is_iteration(path: Path) -> bool:
    """Whether a folder holds one iteration of a Megatron-Bridge checkpoint, whole or half-written."""
    if any((path / name).is_file() for name in (RUN_CONFIG, "train_state.pt", DCP_METADATA)):
        return True
    return path.name.startswith("iter_") and not is_legacy_megatron(path)


def is_legacy_megatron(path: Path) -> bool:
    """Whether a folder holds one file per rank, as Megatron-LM wrote before distributed checkpoints."""
    return any(path.glob("mp_rank_*"))


def iterations(root: Path) -> list[Path]:
    """Return the `iter_*` folders below a checkpoint's root, oldest first."""
    found = (path for path in root.glob("iter_*") if path.name[5:].isdigit() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name[5:]))


def foreign(path: Path) -> str | None:
    """Return what `path` is and what to do with it, where that is a known kind that is not served; else None."""
    if path.is_file():
        if path.suffix in (".nemo", ".qnemo"):
            return (
                f"{path} is a NeMo 1.0 archive; convert it to Hugging Face format with NeMo, and that "
                "with Megatron-Bridge's AutoBridge.import_ckpt."
            )
        return f"{path} is a file; write the checkpoint's folder."
    if nemo2 := nemo2_root(path):
        path = nemo2
        return (
            f"{path} is a NeMo 2.0 checkpoint; write --multimodal --nemo-checkpoint {path} if it is a multimodal "
            "model, and convert an LLM with Megatron-Bridge."
        )
    if (path / "config.json").is_file() and not is_iteration(path) and _has_hugging_face_weights(path):
        return (
            f"{path} is a Hugging Face model; convert it with Megatron-Bridge's "
            f"AutoBridge.import_ckpt({str(path)!r}, 'CHECKPOINT') and write --megatron-checkpoint CHECKPOINT."
        )
    if (path / "adapter_config.json").is_file():
        return (
            f"{path} is a Hugging Face adapter; merge it into its base model, then convert that with Megatron-Bridge."
        )
    folders = [path, *iterations(path), path / "release"]
    if any(is_legacy_megatron(folder) for folder in folders):
        return (
            f"{path} is a Megatron-LM checkpoint with one mp_rank file per rank; save it with --ckpt-format torch_dist "
            "and convert it with Megatron-Bridge."
        )
    return None


def nemo2_root(path: Path) -> Path | None:
    """Return the root of a NeMo 2.0 checkpoint, whole or half-written, of which `path` is the root or a part."""
    for root in [path, path.parent] if path.name in ("context", "weights") else [path]:
        if (root / "context" / "io.json").is_file() or ((root / "context").is_dir() and (root / "weights").is_dir()):
            return root
    return None


def is_megatron_bridge(path: Path) -> bool:
    """Whether `path` is the root or an iteration of a Megatron-Bridge checkpoint."""
    return (path / TRACKER).is_file() or (path / RUN_CONFIG).is_file() or bool(iterations(path))


def _has_hugging_face_weights(path: Path) -> bool:
    patterns = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
    return any(next(path.glob(pattern), None) for pattern in patterns)
