"""The feed as a client has to read it (docs/feed.md): bytes go in, changes come out, whole revisions at a time. No I/O.

A revision's changes are held back until its `id` has come: a stream that is cut in the middle of a revision gets all of
it again, and nobody is told twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from dragonfly.client.calls import Request, Value, read

EVENT_STREAM: Final = "text/event-stream"
SILENCE: Final = 45.0
"""Seconds after which a stream that says nothing is dead: three heartbeats."""

_LONGEST_PAUSE: Final = 5.0

EventType: TypeAlias = Literal["created", "updated", "deleted", "reset"]


class Event(NamedTuple):
    """One change of one object.

    After `reset` what was known is worth nothing. It has no object; its `name` is the reason. With `snapshot` the state
    follows as `created` objects; without, read it anew, at `revision` or later.
    """

    type: EventType
    kind: str
    name: str
    object: Mapping[str, Any]
    revision: int


class Frame(NamedTuple):
    """One Server-Sent Event."""

    event: str
    data: str
    id: str | None
    retry: int | None


class Parser:
    """Takes a stream of bytes apart, however it was cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[Frame]:
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            if (frame := _frame(block.decode())) is not None:
                yield frame


class Follower:
    """One client's way through the feed, over any number of connections."""

    def __init__(self, filters: Mapping[str, Value], *, since: int | None = None, snapshot: bool = False) -> None:
        """Begin nowhere yet.

        Args:
            filters: query parameters of `GET /api/v1/events`.
            since: a revision that was seen; None for now.
            snapshot: begin with the state, and after each reset.
        """
        self.position = since
        self._filters = dict(filters)
        self._snapshot = snapshot
        self._etcd = ""
        self._unsaid: list[Event] = []
        self._retry = 0.5
        self._failures = 0
        self._parser = Parser()

    def request(self, *, at_least: int = 0) -> Request:
        """What to ask for on a new connection.

        Args:
            at_least: a revision that the beginning must hold, such as that of an own write; 0 for any.
        """
        self._unsaid.clear()
        self._parser = Parser()
        query = {"snapshot": self._snapshot, "etcd": self._etcd or None, **self._filters}
        if self.position is None:
            return read("events", query={"minRevision": at_least or None, **query}, accept=EVENT_STREAM)
        request = read("events", query=query, accept=EVENT_STREAM)
        return request._replace(headers={**request.headers, "Last-Event-ID": str(self.position)})

    def take(self, data: bytes) -> list[Event]:
        """Return what has become certain."""
        said: list[Event] = []
        for frame in self._parser.take(data):
            said += self._said(frame)
        return said

    def pause(self) -> float:
        """Seconds to wait before connecting anew: what the server said, more if it leads to nothing."""
        self._failures += 1
        spread = random.uniform(0.5, 1)  # noqa: S311 - spreads load
        return min(self._retry * (1 << min(self._failures - 1, 8)), _LONGEST_PAUSE) * spread

    def _said(self, frame: Frame) -> list[Event]:
        self._failures = 0
        data = json.loads(frame.data)
        if frame.retry is not None:
            self._retry = frame.retry / 1_000
        if frame.event == "ping":
            self._etcd = data.get("etcd") or self._etcd
            if data.get("snapshot") == "begins" and not self._unsaid:
                self._unsaid.append(Event("reset", "", "snapshot", {}, data["revision"]))
        elif frame.event == "reset":
            self._etcd = ""
            self.position = None
            self._unsaid.append(Event("reset", "", data["reason"], {}, data["revision"]))
        else:
            self._unsaid.append(Event(data["type"], data["kind"], data["name"], data["object"], data["revision"]))
        if frame.id is None:
            return []
        said, self._unsaid = self._unsaid, []
        self.position = int(frame.id)
        return said


def _frame(block: str) -> Frame | None:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if "event" not in fields:
        return None
    retry = fields.get("retry", "")
    return Frame(fields["event"], fields.get("data", "{}"), fields.get("id"), int(retry) if retry.isdigit() else None)
