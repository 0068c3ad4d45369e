"""A copy of one resource type of one namespace, kept current by list and watch.

Order of truth: a list is taken without a resourceVersion, so the API server answers it from a quorum of etcd; the watch
goes on from there. Within that history an object never goes back: an event that is older than what is stored for the
same uid is dropped.

A cluster that was put back from a backup has another history. A watch that goes on in it from the former one says
nothing of what is another way now, and may say nothing at all for as long as the new one is the shorter (kube-apiserver
1.36). It shows in an event, a bookmark or a list of before what was seen, or a listed object of before what is stored;
then everything is replaced. But the new history may have become the longer one unseen. So a watch is gone on from only
if the API server was not away for long enough to be put back, nor this process stopped for as long, which then takes
the end of a watch for news (`doubt`); else the list is taken anew.

resourceVersions are compared as integers; where one is not a number, what arrives last wins.
"""

import asyncio
import random as randomness
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, Self

import structlog

from dragonfly.kube.errors import Gone, KubeError, Throttled
from dragonfly.kube.pacing import Backoff
from dragonfly.kube.port import Kube, Listing, WatchEvent
from dragonfly.kube.resources import Object, Resource, is_older

_log = structlog.get_logger(__name__)

OnChange = Callable[[str, Object | None, Object | None], None]
"""Called with name, old and new object; old is None for a new one, new is None for one that is gone."""

TIMEOUT: Final = 300.0
"""Seconds after which a watch is asked to end, so that watches spread over API servers that came back."""

SILENCE: Final = 150.0
"""Longer silence is a dead connection: API servers try to send a bookmark each minute, the first one on a quiet watch
after up to two (measured with 1.36.3: 120 to 122 s), and promise neither. A peer that vanished is noticed much sooner
by TCP keepalive; one that is frozen, only by a call."""

_LONGEST_PAUSE: Final = 8.0
"""Seconds between two tries of a cluster that is away: it must not stay away much longer for us than it was."""

_BLINK: Final = 2.0
"""Seconds that nobody needs less of to stop a cluster's API servers and etcd, put that back and start them again."""

_STEADY: Final = 30.0
"""Seconds that a watch must have lived for its end to count as no failure at all."""


class _HistoryRestarted(Exception):
    """The API server told something of before what it had told already."""


class Reflector:
    """Keeps `store` equal to what the API server has, by name; `start` it, `stop` it.

    Attributes:
        store: the objects by name, or by `namespace/name` when it follows all namespaces. Read it, don't write to it.
        resource_version: up to which `store` is current; empty before the first list.
        synced: set once the first list is in.
        fresh_at: when, by the clock, the API server last proved that `store` is current; None before it ever did.
        trouble: the last error, None while all is well.
        troubled_at: when, by the clock, the first error of an unbroken row came; None while all is well. The age of
            `fresh_at` tells no trouble: nothing has to happen on a quiet watch for minutes.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        namespace: str,
        *,
        label_selector: str = "",
        on_change: OnChange = lambda _name, _old, _new: None,
        slim: Callable[[Object], Object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store: dict[str, Object] = {}
        self.resource_version = ""
        self.synced = asyncio.Event()
        self.fresh_at: float | None = None
        self.trouble: KubeError | None = None
        self.troubled_at: float | None = None
        self.resource: Final = resource
        self._kube = kube
        self._namespace = namespace
        self._label_selector = label_selector
        self._on_change = on_change
        self._slim = slim or (lambda obj: obj)
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._backoff = Backoff(most=_LONGEST_PAUSE)
        self._must_list = True
        self._is_other_history = False
        self._ahead: set[str] = set()
        """What `observe` has put in since the last list was asked for, which that list need not have."""
        self._alive_at = float("-inf")
        """When, by the clock, the API server was last there, as far as this copy's own list and watch can tell."""
        self._task: asyncio.Task[None] | None = None
        self._log = _log.bind(resource=resource.plural, namespace=namespace)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        assert self._task is None, "a reflector is started once"
        self._task = asyncio.create_task(self.run(), name=f"reflector {self.resource.plural}")

    async def stop(self) -> None:
        """End the watch; `store` stays as it is."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def run(self) -> None:
        """Follow until cancelled; `start` does this in a task."""
        while True:
            began = self._clock()
            before = self.resource_version
            try:
                while self._must_list or self._clock() - self._alive_at > _BLINK:
                    await self._list()
                await self._follow()
            except _HistoryRestarted:
                self._must_list = self._is_other_history = True
                self._backoff = self._backoff.worse()
            except Gone as error:
                self._must_list = True
                self._failed(error)
            except KubeError as error:
                self._failed(error)
            else:
                self._ended(lasted=self._clock() - began, progressed=self.resource_version != before)
            await self._pause()

    def observe(self, obj: Object) -> None:
        """Take in the answer to a write of one's own at once, ahead of the watch, unless the store is newer.

        Only objects that `label_selector` selects: of others the watch would never tell the end.
        """
        is_of_type = self.resource.api_version == obj.get("apiVersion") and self.resource.kind == obj.get("kind")
        if is_of_type and not self._has_ended(obj):
            self._ahead.add(self._key(obj))
            self._put(obj)

    def doubt(self) -> None:
        """Go on from no watch that has ended by now: when it did, and what has been since, nobody saw."""
        self._must_list = True

    def _has_ended(self, obj: Object) -> bool:
        """Whether the watch has overtaken the answer and told the object's end, which it will not tell again."""
        stored = self.store.get(self._key(obj))
        is_passed = bool(self.resource_version) and not is_older(self.resource_version, _version(obj))
        return is_passed and (stored is None or _uid(stored) != _uid(obj))

    async def _list(self) -> None:
        self._ahead.clear()
        self._must_list = False  # a doubt that comes up from here on asks again
        try:
            listing = await self._kube.list(self.resource, self._namespace, label_selector=self._label_selector)
        except BaseException:
            self._must_list = True
            raise
        is_other_history = self._is_other_history or self._is_of_another_history(listing)
        if is_other_history:
            self._log.warning(
                "kube.history_restarted", seen=self.resource_version, now=listing.resource_version, reason="restored?"
            )
        # What `observe` put in after the list was taken is not in the list, and not gone.
        listed = {self._key(item) for item in listing.items}
        for name in [name for name in self.store if name not in listed]:
            if is_other_history or not self._is_ahead(name, listing):
                self._remove(name)
        for item in listing.items:
            self._put(item, is_other_history=is_other_history)
        self.resource_version = listing.resource_version
        self._is_other_history = False
        # Of a watch that keeps failing the list is no end of trouble.
        self.fresh_at = self._alive_at = self._clock()
        self.synced.set()

    def _is_of_another_history(self, listing: Listing) -> bool:
        """Whether the list is of before what was seen, or an object in it; what `observe` put in since is no sign."""
        if is_older(listing.resource_version, self.resource_version):
            return True
        stored = ((item, self.store.get(self._key(item))) for item in listing.items)
        return any(
            old is not None and _is_outdated(item, old) and not self._is_ahead(self._key(old), listing)
            for item, old in stored
        )

    def _is_ahead(self, name: str, listing: Listing) -> bool:
        """Whether the list may have been taken before the answer to a write that was observed.

        An answer that was there before the list was asked for is in it, for the list is of a quorum: whatever lacks it
        is of another history, though the watch, which may have been dead for long, never told of that write.
        """
        return name in self._ahead and is_older(listing.resource_version, _version(self.store[name]))

    async def _follow(self) -> None:
        """Take in changes until the server ends the stream."""
        events = self._kube.watch(
            self.resource,
            self._namespace,
            self.resource_version,
            label_selector=self._label_selector,
            timeout=TIMEOUT * (1 + self._random()),
            silence=SILENCE,
        )
        async with aclosing(events) as stream:
            async for event in stream:
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        if is_older(_version(event.object), self.resource_version):
            raise _HistoryRestarted
        if event.type == "DELETED":
            name = self._key(event.object)
            if (old := self.store.get(name)) and not _is_outdated(event.object, old):
                self._remove(name)
        elif event.type != "BOOKMARK":
            self._put(event.object)
        self.resource_version = _version(event.object)
        self._proven()

    def _put(self, obj: Object, *, is_other_history: bool = False) -> None:
        name = self._key(obj)
        old = self.store.get(name)
        if old and not is_other_history and _is_outdated(obj, old):
            return
        new = self._slim(obj)
        if old == new:  # not by its version: another history may have come as far with another content
            return
        if old and _uid(old) != _uid(new):
            # Deleted and made again between two looks: whoever follows one object must hear of its end.
            self._remove(name)
            old = None
        self.store[name] = new
        self._tell(name, old, new)

    def _remove(self, name: str) -> None:
        self._tell(name, self.store.pop(name), None)

    def _tell(self, name: str, old: Object | None, new: Object | None) -> None:
        try:
            self._on_change(name, old, new)
        except Exception:
            # A listener's bug must not stop the copy for all others.
            self._log.exception("kube.listener_failed", name=name)

    def _proven(self) -> None:
        self.fresh_at = self._alive_at = self._clock()
        self.trouble = self.troubled_at = None

    def _failed(self, error: KubeError) -> None:
        self.trouble = error
        self.troubled_at = self._clock() if self.troubled_at is None else self.troubled_at
        self._backoff = self._backoff.worse()
        self._log.info("kube.watch_failed", error=error.message, reason=error.reason, status=error.status)

    def _ended(self, *, lasted: float, progressed: bool) -> None:
        """The server closed the stream, as it does by plan after `timeout`, and without one in the middle of bursts."""
        self._alive_at = self._clock()
        if lasted >= _STEADY:
            self._backoff = self._backoff.calm()
        elif progressed:
            self._backoff = self._backoff.better()
        else:
            self._backoff = self._backoff.worse()

    async def _pause(self) -> None:
        delay = self._backoff.delay(self._random())
        if isinstance(self.trouble, Throttled):
            delay += self.trouble.retry_after
        await self._sleep(delay)

    def _key(self, obj: Object) -> str:
        metadata = obj["metadata"]
        if self._namespace or not self.resource.namespaced:
            return str(metadata["name"])
        return f"{metadata['namespace']}/{metadata['name']}"


def without_managed_fields(obj: Object) -> Object:
    """A `slim` for reflectors: managedFields are half of an object's size, and of no use to controllers."""
    obj["metadata"].pop("managedFields", None)
    return obj


def _version(obj: Object) -> str:
    return str(obj["metadata"]["resourceVersion"])


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def _is_outdated(obj: Object, stored: Object) -> bool:
    """Whether `obj` is an earlier state of the very object that is stored."""
    return _uid(obj) == _uid(stored) and is_older(_version(obj), _version(stored))
