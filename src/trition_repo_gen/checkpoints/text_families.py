"""The families of text models in Megatron-Bridge checkpoints, and which of them `trgen build` refuses.

Megatron-Bridge names a model by its provider, the class that builds it. Families share providers (Llama and Qwen3 are
`GPTModelProvider`), so most refusals are by a setting of the model and not by its provider. A provider that is not
listed is accepted: the ranks refuse layers that the engine does not compute (engines/core/attention_kernels.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextFamily:
    """What a provider builds."""

    name: str
    """For people."""
    reason: str = ""
    """Why it is refused, as the end of a sentence; empty if it is accepted."""


PROVIDERS: Mapping[str, TextFamily] = {
    "FalconH1ModelProvider": TextFamily("Falcon-H1"),
    "GPTModelProvider": TextFamily("GPT, Llama, Qwen and others"),
    "Gemma2ModelProvider": TextFamily("Gemma 2"),
    "Gemma3ModelProvider": TextFamily("Gemma 3"),
    "Gemma4DenseProvider": TextFamily("Gemma 4"),
    "Gemma4ModelProvider": TextFamily("Gemma 4"),
    "GemmaModelProvider": TextFamily("Gemma"),
    "HybridModelProvider": TextFamily("hybrid models"),
    "LlamaNemotronHeterogeneousProvider": TextFamily("Llama Nemotron"),
    "MLAModelProvider": TextFamily("DeepSeek, Kimi and others with multi-latent attention"),
    "MambaModelProvider": TextFamily("Mamba"),
    "MiMoV2FlashModelProvider": TextFamily("MiMo-V2-Flash"),
    "MiniMaxM3ModelProvider": TextFamily("MiniMax-M3"),
    "Ministral3ModelProvider": TextFamily("Ministral 3"),
    "MistralModelProvider": TextFamily("Mistral"),
    "OlMoEModelProvider": TextFamily("OLMoE"),
    "SarvamMLAModelProvider": TextFamily("Sarvam"),
    "SarvamMoEModelProvider": TextFamily("Sarvam"),
    "Step35ModelProvider": TextFamily("Step-3.5"),
    "T5ModelProvider": TextFamily("T5", "of models of text only decoders are served"),
}
"""The last part of the `_target_` of run_config.yaml's model section (Megatron-Bridge 0.6.2) → the family."""


@dataclass(frozen=True)
class _RefusedSetting:
    """A setting of a model that the engine does not compute as the family needs it."""

    key: str
    accepted: tuple[object, ...]
    sentence: str
    """What follows `... holds a model`; `{value}` is the setting's."""


_REFUSED_SETTINGS = (
    _RefusedSetting(
        "softmax_type",
        (None, "", "vanilla"),
        "with attention sinks (softmax_type {value}), as GPT-OSS has; such models are not served, because their "
        "answers here were not those of Hugging Face.",
    ),
    _RefusedSetting(
        "attn_logit_softcapping",
        (None, 0, False),
        "that caps its attention's logits (attn_logit_softcapping {value}), as Gemma 2 does; such models are not "
        "served, because the engine's paged attention does not cap them.",
    ),
)


def refusal(provider: str, model: Mapping[str, Any]) -> str | None:
    """Return why a text model is refused, as the part of a sentence that follows the checkpoint's path, else None.

    Args:
        provider: its name in run_config.yaml.
        model: the model section of run_config.yaml.
    """
    family = PROVIDERS.get(provider)
    if family is None and "T5" in provider:
        family = PROVIDERS["T5ModelProvider"]
    if family and family.reason:
        return f"is a {provider}; {family.reason}."
    for setting in _REFUSED_SETTINGS:
        if (value := model.get(setting.key)) not in setting.accepted:
            return f"holds a model {setting.sentence.format(value=value)}"
    return None
