from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def outcome(in_megatron: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return in_megatron(__file__, "reading_driver.py", str(tmp_path_factory.mktemp("checkpoint")))


def test_threads_read_what_torch_does(outcome: Any) -> None:
    assert outcome["same"] == outcome["all"]
    assert outcome["part"]


def test_what_is_not_plain_is_left_to_torch(outcome: Any) -> None:
    assert "transposed" in outcome["by_torch"]
    assert not {"matrix", "bfloat16", "integers", "scalar"} & set(outcome["by_torch"])
