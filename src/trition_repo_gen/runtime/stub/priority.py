"""Priority levels of requests: 1 is the highest, as in Triton."""

import json
from dataclasses import dataclass
from typing import Any, Self

from ..common.settings import Settings
from ..common.wire import PRIORITY_PARAMETER, BadRequestError


def asked_priority(request: Any) -> Any:
    """Return the priority that a request asks for, unchecked; None for the default."""
    return json.loads(request.parameters() or "{}").get(PRIORITY_PARAMETER)


@dataclass(frozen=True)
class Priorities:
    """The priority levels of a deployment."""

    levels: int
    default: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the levels that the settings define."""
        return cls(settings.priority_levels, settings.default_priority or (settings.priority_levels + 1) // 2)

    def check(self, asked: Any) -> int:
        """Return the level of a request that asks for `asked`.

        Raises:
            BadRequestError: there is no such level.
        """
        if asked is None:
            return self.default
        if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= self.levels:
            raise BadRequestError(
                f"{PRIORITY_PARAMETER} is {asked!r}; it has to be a whole number from 1 to {self.levels}."
            )
        return asked
