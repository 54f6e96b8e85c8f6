"""How urgent a request is: 1 goes first, as in Triton."""

import json
from dataclasses import dataclass
from typing import Any, Self

from ..common.settings import Settings
from ..common.wire import PRIORITY_PARAMETER, BadRequestError


def asked_priority(request: Any) -> Any:
    """Return what a request asks for, unchecked; None where it asks for nothing."""
    return json.loads(request.parameters() or "{}").get(PRIORITY_PARAMETER)


@dataclass(frozen=True)
class Priorities:
    """The levels that a deployment has."""

    levels: int
    default: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a deployment's."""
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
