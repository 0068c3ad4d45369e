"""Moments and durations as people read them."""

from datetime import UTC, datetime

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_YEAR = 365 * _DAY


def moment(text: object) -> datetime | None:
    """Return the time that the API wrote (RFC 3339), or None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None


def utc(moment: datetime) -> str:
    """Return the time as the API writes it, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def short(seconds: float) -> str:
    """Return a duration in one unit, as kubectl shows ages: 45s, 3m, 5h, 12d, 2y."""
    whole = max(0, int(seconds))
    for limit, size, unit in (
        (2 * _MINUTE, 1, "s"),
        (2 * _HOUR, _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h"),
        (2 * _YEAR, _DAY, "d"),
    ):
        if whole < limit:
            return f"{whole // size}{unit}"
    return f"{whole // _YEAR}y"


def exact(seconds: float) -> str:
    """Return a duration for comparing: 0.4s, 12s, 3m05s, 1h02m."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"


def age(text: object, now: datetime) -> str:
    """Return how long ago the API's time was; empty if there is none."""
    since = moment(text)
    return "" if since is None else short((now - since).total_seconds())


def between(start: object, end: object, now: datetime) -> str:
    """Return the duration from `start` to `end`, or until now while there is no end; empty without a start."""
    began = moment(start)
    if began is None:
        return ""
    return exact(((moment(end) or now) - began).total_seconds())
