"""The sampling parameters, in the order in which they are applied: vLLM's.

First what greedy sequences have as well: biases, penalties and masks, on the model's own logits. Then what sampled
sequences have: temperature, and the filters that read the probabilities at that temperature.
"""

from typing import Any

from .api import LogitsProcessor
from .logit_bias import LogitBias
from .min_length import MinLength
from .min_p import MinP
from .output_penalties import FrequencyPenalty, PresencePenalty
from .repetition_penalty import RepetitionPenalty
from .temperature import Temperature
from .top_k_top_p import TopKTopP

PROCESSORS: tuple[type[LogitsProcessor[Any]], ...] = (
    LogitBias,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
    MinLength,
    Temperature,
    MinP,
    TopKTopP,
)
