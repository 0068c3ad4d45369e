"""An exception that nobody expects breaks a history, even where trying again heals it.

A mutation that only raises would otherwise pass for a guard that is missed.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Never

import structlog

raised: list[str] = []
"""What the log told of with an exception since it was last emptied, and where it was raised."""


def be_quiet() -> None:
    """Make no log lines: what matters of a history is in its trace. Exceptions are kept."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), processors=[_keep])


def _keep(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Never:
    error = _error_in(event)
    if error is not None:
        raised.append(f"{event['event']}: {error!r} at {_place(error)}")
    raise structlog.DropEvent


def _error_in(event: Mapping[str, Any]) -> BaseException | None:
    told = event.get("exc_info")
    return told if isinstance(told, BaseException) else sys.exc_info()[1] if told else None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "a place unknown"
