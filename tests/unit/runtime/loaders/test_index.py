from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_an_index_that_could_run_something_is_refused(in_megatron: Callable[..., Any], tmp_path: Path) -> None:
    outcome = in_megatron(__file__, "index_driver.py", str(tmp_path))
    assert not outcome["touched"]
    assert outcome["system"].startswith(".metadata names posix.system, which no checkpoint's index holds")
    assert outcome["getattr"].startswith(".metadata names builtins.getattr, which")
    assert outcome["dotted"].startswith(".metadata names torch.distributed.checkpoint.metadata.os.system, which")
    assert outcome["damaged"].startswith(".metadata is damaged (")
