"""The generation of FlashAttention is one that the GPU runs and the environment has."""

import re

import pytest

from trition_repo_gen.runtime.common.errors import LoadError
from trition_repo_gen.runtime.rank.engines.core.attention_kernels import Installed

AMPERE, HOPPER, BLACKWELL = 8, 9, 10


@pytest.mark.parametrize(
    ("architecture", "latents", "installed", "generation"),
    [
        (AMPERE, False, ("fa2", "fa4"), 2),
        (HOPPER, False, ("fa2", "fa4"), 4),
        (HOPPER, False, ("fa3", "fa4"), 3),
        (BLACKWELL, False, ("fa3", "fa4"), 4),
        (HOPPER, True, ("fa2", "fa4", "flash_mla"), 4),
        (HOPPER, True, ("fa3", "flash_mla"), 3),
    ],
)
def test_the_generation_is_one_that_the_gpu_runs(
    architecture: int, latents: bool, installed: tuple[str, ...], generation: int
) -> None:
    assert Installed(**dict.fromkeys(installed, True)).generation(architecture, latents=latents) == generation


@pytest.mark.parametrize(
    ("architecture", "latents", "installed", "sentence"),
    [
        (AMPERE, False, ("fa4",), "has no FlashAttention for this GPU; install flash-attn>=2.7.3 there."),
        (HOPPER, False, (), "has no FlashAttention for this GPU; install flash-attn-4 there."),
        (HOPPER, True, ("fa4",), "needs FlashMLA on a GPU, which is not installed; install flash_mla from"),
        (HOPPER, True, ("fa2", "flash_mla"), "has none for this GPU; on Hopper and later install flash-attn-4 there."),
    ],
)
def test_where_there_is_none_it_is_said_what_to_install(
    architecture: int, latents: bool, installed: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(LoadError, match=re.escape(sentence)):
        Installed(**dict.fromkeys(installed, True)).generation(architecture, latents=latents)
