"""Who was entitled to act on which shard, and when: the claims as etcd itself tells them.

A thread follows the claims of a swarm with a watch of its own, over etcd's gateway and without any of Dragonfly's code.
When etcd is away it learns late of a claim's end; so a claim may seem to have lasted longer than it did, never shorter.
"""

import contextlib
import http.client
import json
import ssl
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

_SILENCE: Final = 6.0
"""Seconds; the sandbox's etcd marks a quiet watch every two."""
_RETRY: Final = 0.2


class Tenure(NamedTuple):
    """A claim: from when until when, in seconds since 1970, a replica was the owner of a shard."""

    epoch: int
    """Claims that were made in one transaction have the same."""
    shard: str
    """`cluster/number`."""
    replica: str
    began_at: float
    ended_at: float
    """Infinite while it lasts."""


class ClaimWitness:
    """Follows the claims under a prefix for the length of a block."""

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext, prefix: str) -> None:
        self._endpoints = endpoints
        self._tls = tls
        self._prefix = f"{prefix}claims/"
        self._next = 1
        self._tenures: dict[tuple[str, int], Tenure] = {}
        self._current: dict[str, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claim witness", daemon=True)

    @property
    def tenures(self) -> tuple[Tenure, ...]:
        return tuple(self._tenures.copy().values())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stopped.is_set():
            # A member without a leader ends the stream in good order, and would do so for ever.
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._follow(self._endpoints[turn % len(self._endpoints)])
            turn += 1
            self._stopped.wait(_RETRY)

    def _follow(self, endpoint: str) -> None:
        connection = http.client.HTTPSConnection(urlsplit(endpoint).netloc, timeout=_SILENCE, context=self._tls)
        try:
            connection.request("POST", "/v3/watch", self._wanted(), {"Grpc-Metadata-hasleader": "true"})
            for line in connection.getresponse():
                if self._stopped.is_set():
                    return
                self._take(json.loads(line).get("result") or {})
        finally:
            connection.close()

    def _wanted(self) -> bytes:
        end = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        wanted = {
            "key": _encoded(self._prefix),
            "range_end": _encoded(end),
            "start_revision": self._next,
            "progress_notify": True,
        }
        return json.dumps({"create_request": wanted}).encode()

    def _take(self, result: dict[str, Any]) -> None:
        now = time.time()
        if compacted := int(result.get("compact_revision", 0)):
            self._next = compacted
        for event in result.get("events", []):
            self._note(event, now)

    def _note(self, event: dict[str, Any], now: float) -> None:
        item = event["kv"]
        shard = b64decode(item["key"]).decode().removeprefix(self._prefix)
        self._next = int(item["mod_revision"]) + 1
        former = self._current.pop(shard, None)
        is_same = former == int(item.get("create_revision", 0))
        if former is not None and not is_same:
            self._tenures[shard, former] = self._tenures[shard, former]._replace(ended_at=now)
        if event.get("type") == "DELETE":
            return
        epoch = int(item["create_revision"])
        self._current[shard] = epoch
        if not is_same:
            owner = json.loads(b64decode(item["value"]))["owner"]
            self._tenures[shard, epoch] = Tenure(epoch, shard, owner, now, float("inf"))


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
