"""Structured logs: one line an event, JSON for machines or columns for people, secrets taken out by name.

Everything that logs through the standard library (uvicorn, etcd3gw, asyncio) comes out the same way.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

LogFormat = Literal["json", "console"]

_REDACTED: Final = "[redacted]"
_SECRET = re.compile(r"(?i)password|passwd|secret|token|authorization|cookie|kubeconfig|credential|private_?key")
_NO_SECRET = re.compile(r"(?i)(file|path)$")
_BEARER = re.compile(r"(?i)\b(Bearer|Basic)\s+[\w.~+/=-]+")

# These log each request of their own at INFO; what matters of them is in Dragonfly's own lines.
_QUIET: Final = ("uvicorn.access", "urllib3", "asyncio", "kubernetes", "aiohttp.access")


def configure(form: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for the whole process; called once, at the start.

    Args:
        form: `json`, or `console` for people; colours only on a terminal.
        level: name of a level, such as `info`, in any case.
        stream: where the lines go; standard error by default.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(form, colors=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event: values under telling names at any depth, and credentials inside texts."""
    for name, value in event.items():
        event[name] = redacted(name, value)
    return event


def redacted(name: str, value: Any) -> Any:
    """Return `value` as it may be logged under `name`."""
    if _SECRET.search(name) and not _NO_SECRET.search(name) and not isinstance(value, bool | int | None):
        return _REDACTED
    if isinstance(value, dict):
        return {key: redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted("", inner) for inner in value]
    if isinstance(value, tuple):  # exc_info must stay one
        return tuple(redacted("", inner) for inner in value)
    if isinstance(value, str):
        return _BEARER.sub(rf"\1 {_REDACTED}", value)
    return value


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        redact,
    ]


def _rendering(form: LogFormat, *, colors: bool) -> list[structlog.typing.Processor]:
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "console":
        # Tracebacks with the values of locals would show secrets.
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    # Tracebacks become text before the last look for secrets.
    return [structlog.processors.format_exc_info, redact, renderer]
