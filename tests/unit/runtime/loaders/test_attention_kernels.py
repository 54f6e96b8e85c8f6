import json
from collections.abc import Callable
from typing import Any


def test_the_generation_of_flash_attention_is_one_that_the_gpu_runs(in_megatron: Callable[..., Any]) -> None:
    no_latents, latents = False, True
    expected: dict[tuple[int, bool, tuple[str, ...]], int | str] = {
        (8, no_latents, ("fa2", "fa4")): 2,
        (9, no_latents, ("fa2", "fa4")): 4,
        (9, no_latents, ("fa3", "fa4")): 3,
        (10, no_latents, ("fa3", "fa4")): 4,
        (9, latents, ("fa2", "fa4", "flash_mla")): 4,
        (9, latents, ("fa3", "flash_mla")): 3,
        (8, no_latents, ("fa4",)): "has no FlashAttention for this GPU; install flash-attn>=2.7.3 there.",
        (9, no_latents, ()): "has no FlashAttention for this GPU; install flash-attn-4 there.",
        (9, latents, ("fa4",)): "needs FlashMLA on a GPU, which is not installed; install flash_mla from",
        (9, latents, ("fa2", "flash_mla")): "has none for this GPU; on Hopper and later install flash-attn-4 there.",
    }
    found = in_megatron(__file__, "attention_kernels_driver.py", json.dumps(list(expected)))
    assert len(found) == len(expected)
    for case, (got, wanted) in zip(expected, zip(found, expected.values(), strict=True), strict=True):
        assert got == wanted or (isinstance(wanted, str) and wanted in str(got)), case
