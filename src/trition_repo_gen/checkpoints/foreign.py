"""Recognise kinds of checkpoint that are not served, so that a refusal says how to convert them."""

from pathlib import Path

from trition_repo_gen.checkpoints.megatron_folders import is_iteration, is_legacy, iterations


def sentence(path: Path) -> str | None:
    """Return what `path` is and how to convert it, where it is of a known kind that is not served; else None."""
    if path.is_file():
        if path.suffix in (".nemo", ".qnemo"):
            return (
                f"{path} is a NeMo 1.0 archive; convert it to Hugging Face format with NeMo, and that "
                "with Megatron-Bridge's AutoBridge.import_ckpt."
            )
        return f"{path} is a file; write the checkpoint's folder."
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
    if any(is_legacy(folder) for folder in folders):
        return (
            f"{path} is a Megatron-LM checkpoint with one mp_rank file per rank; save it with --ckpt-format torch_dist "
            "and convert it with Megatron-Bridge."
        )
    return None


def _has_hugging_face_weights(path: Path) -> bool:
    patterns = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
    return any(next(path.glob(pattern), None) for pattern in patterns)
