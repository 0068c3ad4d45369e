"""What can go wrong, told apart by what the caller can do."""

from collections.abc import Mapping
from typing import Any, Final

TEMPORARY: Final = frozenset({429, 502, 503, 504})
"""Statuses that another try may not get."""


class ClientError(Exception):
    """Anything that the client raises on purpose."""


class Unreachable(ClientError):
    """Nobody answered for as long as the client has patience. What was asked for may have happened."""


class ApiError(ClientError):
    """Dragonfly refuses; asking the same again gives the same."""

    def __init__(self, status: int, problem: Mapping[str, Any], *, again: bool = False) -> None:
        """Take the answer apart.

        Args:
            status: HTTP's.
            problem: the problem document (RFC 9457); empty if the answer was something else.
            again: it is not the first try that is refused, and an earlier one may have been carried out.
        """
        self.status = status
        self.again = again
        self.problem = problem
        self.type = str(problem.get("type", "")).removeprefix("/problems/")
        self.temporary = status in TEMPORARY
        super().__init__(str(problem.get("detail") or f"the server answered {status}"))
