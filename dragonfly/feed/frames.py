"""Changes as JSON and as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Pure.

The `id` of an event is a revision, and only the last event of a revision has one: a client's position is always
between revisions. One that is cut in the middle of a revision gets all of it again; it takes what came without an `id`
after the last one for not yet said.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from dragonfly.feed.view import Seen


def item(seen: Seen) -> bytes:
    """A change as JSON."""
    kind, name = seen.shown.ref
    head = b'{"revision":%d,"type":"%s","kind":"%s","name":"%s","object":'
    return head % (seen.revision, seen.type.encode(), kind.encode(), name.encode()) + seen.shown.json() + b"}"


def frame(seen: Seen, position: int | None) -> bytes:
    """A change as an event; with `position`, all changes up to that revision have been told."""
    tail = b"\n\n" if position is None else b"\nid: %d\n\n" % position
    return b"event: %s\ndata: %s%s" % (seen.type.encode(), item(seen), tail)


def notice(event: str, data: Mapping[str, Any], *, position: int | None = None, retry: int | None = None) -> bytes:
    """An event about the stream itself (`ping`, `reset`).

    Args:
        event: its name.
        data: its JSON.
        position: the revision up to which everything has been told.
        retry: milliseconds to wait before connecting anew.
    """
    lines = [b"event: %s\ndata: %s" % (event.encode(), msgspec.json.encode(data))]
    lines += [b"id: %d" % position] if position is not None else []
    lines += [b"retry: %d" % retry] if retry is not None else []
    return b"\n".join(lines) + b"\n\n"
