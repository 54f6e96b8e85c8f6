from collections.abc import Callable
from typing import Any


def test_kernels_compute_what_plain_torch_does(in_megatron: Callable[..., Any]) -> None:
    outcome = in_megatron(__file__, "kernels_driver.py")
    assert len(outcome) == 3 + 2 * 2 * 2 + 3 * 3 * 2 + 2 * 2 * 2 + 2 * 3 * 2 * 3 + 2 * 2 * 2 * 2
    assert {case: difference for case, difference in outcome.items() if not difference < 1e-5} == {}
