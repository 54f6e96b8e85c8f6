"""The multimodal families: what checkpoints call them, whether they are served, and which class runs them.

Standard library only: `trgen build` decides with this table, and the ranks look up with it what runs a model. To serve
another family, write a file beside this one with its `MultimodalModel`, and one entry here.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_QWEN_ONLY = "its vision tower, and how it puts images among the text, are not those of Qwen-VL"
_EXPERTS = "experts in a model with images cannot be run with a KV cache here"
_AUDIO = "it hears and speaks as well"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes that a NeMo 2.0 configuration leaves to its class."""

    language: str
    """Class of the language model's configuration, in `checkpoints/nemo2.py`."""
    vision_ffn_hidden_size: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of multimodal models, in checkpoints of one kind."""

    name: str
    reason: str = ""
    """Why it is not served, as the end of a sentence; empty if it is served."""
    library_class: str = ""
    """What names a loaded model: Megatron-Bridge's class of the model, nemo-toolkit's class of its configuration."""
    run_by: str = ""
    """The `MultimodalModel` that runs it, as `module.Class` in this folder."""
    max_sequence_length: int = 0
    """Tokens of a sequence that it was trained for, as Hugging Face's configurations say."""
    shares_vision: bool = False
    """Whether tensor-parallel ranks share the layers of its vision tower."""
    vision_ffn_hidden_size: int = 0
    """NeMo 2.0: that of its vision tower where the configuration has none."""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    """NeMo 2.0: classes of the whole model's configuration whose sizes the checkpoint leaves out."""

    @property
    def served(self) -> bool:
        """Whether it is served."""
        return not self.reason


def _refused(name: str, reason: str) -> Family:
    return Family(name=name, reason=reason)


# Sizes: nemo-toolkit 2.7.3, vlm/qwen2vl/model/qwen2vl.py.
NEMO_QWEN2_VL = Family(
    name="Qwen2-VL",
    library_class="Qwen2VLConfig",
    run_by="nemo_qwen2_vl.NemoQwen2VL",
    max_sequence_length=32_768,
    shares_vision=True,
    vision_ffn_hidden_size=5120,
    presets={
        "Qwen2VLConfig2B": Preset(language="Qwen2Config1P5B", vision_ffn_hidden_size=5120),
        "Qwen2VLConfig7B": Preset(language="Qwen2Config7B", vision_ffn_hidden_size=5120),
        "Qwen2VLConfig72B": Preset(language="Qwen2Config72B", vision_ffn_hidden_size=5120),
    },
)
NEMO_QWEN25_VL = Family(
    name="Qwen2.5-VL",
    library_class="Qwen2VLConfig",
    run_by="nemo_qwen2_vl.NemoQwen2VL",
    max_sequence_length=128_000,
    shares_vision=True,
    vision_ffn_hidden_size=3420,
    presets={
        "Qwen25VLConfig3B": Preset(language="Qwen25Config3B", vision_ffn_hidden_size=3420),
        "Qwen25VLConfig7B": Preset(language="Qwen25Config7B", vision_ffn_hidden_size=3420),
        "Qwen25VLConfig32B": Preset(language="Qwen25Config32B", vision_ffn_hidden_size=3456),
        "Qwen25VLConfig72B": Preset(language="Qwen25Config72B", vision_ffn_hidden_size=3456),
    },
)

NEMO2: Mapping[str, Family] = {
    "Qwen2VLVisionConfig": NEMO_QWEN2_VL,
    "Qwen25VLVisionConfig": NEMO_QWEN25_VL,
    "Qwen2VLModel": NEMO_QWEN2_VL,
    "LlavaNextModel": _refused("LLaVA-NeXT", _QWEN_ONLY),
    "LlavaModel": _refused("LLaVA", _QWEN_ONLY),
    "NevaModel": _refused("NeVA", _QWEN_ONLY),
    "Gemma3VLModel": _refused("Gemma3-VL", _QWEN_ONLY),
    "Llama4OmniModel": _refused("Llama 4", _EXPERTS),
    "MLlamaModel": _refused("Llama 3.2 Vision", "its text attends to images in layers of their own"),
    "CLIPModel": _refused("CLIP", "it generates no text"),
}
"""nemo-toolkit's class of the model (`nemo.collections.vlm`), or of a vision tower that decides → the family."""

MEGATRON_BRIDGE: Mapping[str, Family] = {
    "Qwen25VLModelProvider": Family(
        name="Qwen2.5-VL",
        library_class="Qwen25VLModel",
        run_by="bridge_qwen25_vl.BridgeQwen25VL",
        max_sequence_length=128_000,
    ),
    "Qwen3VLModelProvider": Family(
        name="Qwen3-VL",
        library_class="Qwen3VLModel",
        run_by="bridge_qwen3_vl.BridgeQwen3VL",
        max_sequence_length=262_144,
        shares_vision=True,
    ),
    "Qwen3VLMoEModelProvider": _refused("Qwen3-VL-MoE", _EXPERTS),
    "Qwen35VLModelProvider": _refused("Qwen3.5-VL", "some of its layers are recurrent"),
    "Qwen35VLMoEModelProvider": _refused("Qwen3.5-VL-MoE", _EXPERTS),
    "Gemma3VLModelProvider": _refused("Gemma3-VL", _QWEN_ONLY),
    "Gemma4VLModelProvider": _refused("Gemma4-VL", _QWEN_ONLY),
    "Gemma4DenseVLProvider": _refused("Gemma4-VL", _QWEN_ONLY),
    "GLM45VModelProvider": _refused("GLM-4.5V", _EXPERTS),
    "Ernie45VLModelProvider": _refused("ERNIE-4.5-VL", _EXPERTS),
    "KimiK25VLModelProvider": _refused("Kimi-K2.5-VL", _EXPERTS),
    "NemotronVLModelProvider": _refused("Nemotron-VL", _QWEN_ONLY),
    "NemotronOmniModelProvider": _refused("Nemotron-Omni", _QWEN_ONLY),
    "Qwen25OmniModelProvider": _refused("Qwen2.5-Omni", _AUDIO),
    "Qwen3OmniModelProvider": _refused("Qwen3-Omni", _AUDIO),
    "LlavaMegatronMIMOProvider": _refused("LLaVA", _QWEN_ONLY),
}
"""The last part of the `_target_` of run_config.yaml's model section (Megatron-Bridge 0.6) → the family."""


def served_names(table: Mapping[str, Family]) -> str:
    """Return the names of the served families of a table, for a sentence."""
    return " and ".join(dict.fromkeys(family.name for family in table.values() if family.served))


def runner(table: Mapping[str, Family], library_class: type) -> Any:
    """Return the `MultimodalModel` class that runs what the library made, None where no served family has it.

    Imports the class's module, and with it torch.

    Args:
        table: of the checkpoint's kind.
        library_class: see `Family.library_class`; a subclass does as well.
    """
    names = [base.__name__ for base in library_class.__mro__]
    for family in table.values():
        if family.served and family.library_class in names:
            module, _, name = family.run_by.partition(".")
            return getattr(importlib.import_module(f".{module}", __name__), name)
    return None
