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
    if path.name in ("context", "weights") and _is_nemo2(path.parent):
        path = path.parent
    if _is_nemo2(path):
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


def _is_nemo2(path: Path) -> bool:
    return (path / "context").is_dir() and (path / "weights").is_dir()


def _has_hugging_face_weights(path: Path) -> bool:
    patterns = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
    return any(next(path.glob(pattern), None) for pattern in patterns)
