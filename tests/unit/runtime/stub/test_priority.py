import json
from dataclasses import dataclass
from typing import Any

import pytest

from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.common.wire import BadRequestError
from trition_repo_gen.runtime.stub.priority import Priorities, asked_priority


@dataclass
class Request:
    """A request of the Python backend, whose parameters are JSON."""

    text: str

    def parameters(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("settings", "levels", "default"),
    [({}, 1, 1), ({"priority_levels": 3}, 3, 2), ({"priority_levels": 4, "default_priority": 4}, 4, 4)],
)
def test_the_default_priority_is_the_middle_one_or_the_deployments(
    settings: dict[str, int], levels: int, default: int
) -> None:
    priorities = Priorities.of(Settings(checkpoint="/c", **settings))  # type: ignore[arg-type]
    assert priorities == Priorities(levels, default)
    assert priorities.check(asked_priority(Request("{}"))) == default
    assert priorities.check(asked_priority(Request(json.dumps({"queue_priority": levels})))) == levels


@pytest.mark.parametrize("asked", [0, 4, -1, "1", True, 1.0])
def test_an_unknown_priority_is_a_bad_request(asked: Any) -> None:
    with pytest.raises(BadRequestError, match="it has to be a whole number from 1 to 3"):
        Priorities(3, 2).check(asked_priority(Request(json.dumps({"queue_priority": asked}))))
