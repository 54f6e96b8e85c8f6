"""Which families of multimodal models are served, and why the others are not."""

from dataclasses import dataclass

_QWEN_ONLY = "its vision tower, and how it puts images among the text, are not those of Qwen-VL"
_EXPERTS = "experts in a model with images cannot be run with a KV cache here"


@dataclass(frozen=True)
class Family:
    """A family of multimodal models."""

    name: str
    reason: str = ""
    """Why it is not served; empty if it is."""
    longest: int = 0
    """Tokens of a sequence that it was trained for, as Hugging Face's configurations say."""
    shares_vision: bool = False
    """Whether tensor-parallel ranks share the layers of its vision tower."""

    @property
    def served(self) -> bool:
        """Whether it is served."""
        return not self.reason


QWEN2_VL = Family("Qwen2-VL", longest=32_768, shares_vision=True)
QWEN25_VL = Family("Qwen2.5-VL", longest=128_000, shares_vision=True)

NEMO2 = {
    "Qwen2VLVisionConfig": QWEN2_VL,
    "Qwen25VLVisionConfig": QWEN25_VL,
    "Qwen2VLModel": QWEN2_VL,
    "LlavaNextModel": Family("LLaVA-NeXT", _QWEN_ONLY),
    "LlavaModel": Family("LLaVA", _QWEN_ONLY),
    "NevaModel": Family("NeVA", _QWEN_ONLY),
    "Gemma3VLModel": Family("Gemma3-VL", _QWEN_ONLY),
    "Llama4OmniModel": Family("Llama 4", _EXPERTS),
    "MLlamaModel": Family("Llama 3.2 Vision", "its text attends to images in layers of their own"),
    "CLIPModel": Family("CLIP", "it generates no text"),
}
"""nemo-toolkit's class of the model (`nemo.collections.vlm`), or of a vision tower that decides → the family."""

MEGATRON_BRIDGE = {
    "Qwen25VLModelProvider": Family("Qwen2.5-VL", longest=128_000),
    "Qwen3VLModelProvider": Family("Qwen3-VL", longest=262_144, shares_vision=True),
    "Qwen3VLMoEModelProvider": Family("Qwen3-VL-MoE", _EXPERTS),
    "Qwen35VLModelProvider": Family("Qwen3.5-VL", "some of its layers are recurrent"),
    "Qwen35VLMoEModelProvider": Family("Qwen3.5-VL-MoE", _EXPERTS),
    "Gemma3VLModelProvider": Family("Gemma3-VL", _QWEN_ONLY),
    "Gemma4VLModelProvider": Family("Gemma4-VL", _QWEN_ONLY),
    "Gemma4DenseVLProvider": Family("Gemma4-VL", _QWEN_ONLY),
    "GLM45VModelProvider": Family("GLM-4.5V", _EXPERTS),
    "Ernie45VLModelProvider": Family("ERNIE-4.5-VL", _EXPERTS),
    "KimiK25VLModelProvider": Family("Kimi-K2.5-VL", _EXPERTS),
    "NemotronVLModelProvider": Family("Nemotron-VL", _QWEN_ONLY),
    "NemotronOmniModelProvider": Family("Nemotron-Omni", _QWEN_ONLY),
    "Qwen25OmniModelProvider": Family("Qwen2.5-Omni", "it hears and speaks as well"),
    "Qwen3OmniModelProvider": Family("Qwen3-Omni", "it hears and speaks as well"),
    "LlavaMegatronMIMOProvider": Family("LLaVA", _QWEN_ONLY),
}
"""The last part of the `_target_` of run_config.yaml's model section (Megatron-Bridge 0.6) → the family."""


def served(table: dict[str, Family]) -> str:
    """Return the names of the served families of a table, for a sentence."""
    names = list(dict.fromkeys(family.name for family in table.values() if family.served))
    return " and ".join(names)
