"""Models that take images, sharded in two, and Megatron-Bridge's: the same answers as Hugging Face's."""

from pathlib import Path

import pytest

from tests.e2e.multimodal.cases import CASES, assert_parity
from tests.e2e.multimodal.prepared import Build, Prepared
from tests.e2e.serving import serving_of

TP2 = ["--tensor-parallel-size", "2"]
# A threshold that splits a step of several prompts into micro-batches.
PP2 = ["--pipeline-parallel-size", "2", "--inference-batch-times-seqlen-threshold", "100"]
SERVERS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "NeMo TP2": ("nemo", {"qwen2vl": TP2, "qwen25vl": TP2}),
    "NeMo PP2": ("nemo", {"qwen2vl": PP2, "qwen25vl": PP2}),
    "Bridge": ("bridge", {"qwen25vl": [], "qwen3vl": []}),
    "Bridge TP2 and PP2": ("bridge", {"qwen25vl": TP2, "qwen3vl": PP2}),
}


@pytest.mark.parametrize("server", SERVERS)
def test_layout(server: str, prepared_images: Prepared, build_multimodal: Build, tmp_path: Path) -> None:
    kind, models = SERVERS[server]
    for name, flags in models.items():
        build_multimodal(kind, name, tmp_path, *flags)
    with serving_of(tmp_path, *models) as servings:
        for serving in servings:
            assert_parity(serving, CASES, prepared_images.answers[serving.model])
