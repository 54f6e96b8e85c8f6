import json
from collections.abc import Callable
from typing import Any

import pytest

CASES: dict[str, dict[str, Any]] = {
    "prefill": {"lengths": [5, 17, 8], "queries": [5, 17, 8]},
    "prefill behind a cached prefix": {"lengths": [20, 9], "queries": [6, 4]},
    "prefill of one row": {"lengths": [33], "queries": [33]},
    "prefill and decode together": {"lengths": [12, 30, 7, 9, 16], "queries": [12, 1, 1, 9, 1]},
    "prefill with padding rows": {"lengths": [12, 0, 3, 0], "queries": [12, 0, 3, 0]},
    "prefill in a window": {"lengths": [25, 14, 6], "queries": [25, 3, 1], "window": [5, 0]},
    "prefill without pages": {"lengths": [5, 17, 8], "queries": [5, 17, 8], "call": "unpaged"},
    "prefill in bfloat16": {"lengths": [9, 21], "queries": [9, 21], "dtype": "bfloat16"},
    "decode": {"lengths": [5, 40, 8, 16], "queries": [1] * 4, "call": "decode"},
    "decode, lengths alike": {"lengths": [24] * 3, "queries": [1] * 3, "call": "decode"},
    "decode, many and far apart": {
        "lengths": [1, 3, 500, 70, 64, 65, 129, 2, 300, 17],
        "queries": [1] * 10,
        "block": 64,
        "call": "decode",
    },
    "decode with padding rows": {"lengths": [7, 0, 19, 0], "queries": [1] * 4, "call": "decode"},
    "decode of nothing": {"lengths": [0, 0], "queries": [1] * 2, "call": "decode"},
    "decode two tokens": {"lengths": [5, 40, 8], "queries": [2] * 3, "call": "decode"},
    "decode in a window": {"lengths": [5, 40, 8], "queries": [1] * 3, "window": [6, 0], "call": "decode"},
    "decode, a KV head per head": {"lengths": [5, 40], "queries": [1] * 2, "groups": 4, "call": "decode"},
    "decode, one KV head": {"lengths": [5, 40], "queries": [1] * 2, "groups": 1, "call": "decode"},
    "decode in bfloat16": {"lengths": [5, 40], "queries": [1] * 2, "dtype": "bfloat16", "call": "decode"},
    "decode latents": {"lengths": [5, 0, 40, 8], "queries": [1] * 4, "value_size": 10, "groups": 1, "call": "mla"},
    "decode two latents": {"lengths": [5, 40], "queries": [2] * 2, "value_size": 10, "groups": 1, "call": "mla"},
}


@pytest.fixture(scope="module")
def differences(in_megatron: Callable[..., Any]) -> dict[str, dict[str, float]]:
    found = in_megatron(__file__, "attention_driver.py", json.dumps(list(CASES.values())))
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_paged_attention_equals_dense(case: str, differences: dict[str, dict[str, float]]) -> None:
    tolerance = 2e-2 if CASES[case].get("dtype") == "bfloat16" else 3e-6
    assert max(differences[case].values()) < tolerance, differences[case]
