"""Reflectors against a real API server that is killed, paused, and made to forget its history."""

import asyncio
import base64
import json
import signal
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from ulid import ULID

from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.errors import Gone, NotFound, Unreachable
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import SECRET, Object, Ref
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane to break. Each test leaves it running."""
    with ControlPlane(with_tinkerbell=False) as plane:
        yield plane


def connect(plane: ControlPlane, **limits: Any) -> Connection:
    return Connection(Kubeconfig((plane.admin_kubeconfig,)), Limits(**limits))


def secret(name: str, value: int) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"test": name.rpartition("-")[0]}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"value": str(value)}}


class Followed:
    """A reflector whose changes can be waited for, and are checked to be without gaps."""

    def __init__(self, kube: Connection, label: str) -> None:
        self._changed = asyncio.Event()
        self.told: dict[str, Object] = {}
        self.reflector = Reflector(kube, SECRET, NAMESPACE, label_selector=f"test={label}", on_change=self._on_change)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _on_change(self, name: str, old: Object | None, new: Object | None) -> None:
        assert self.told.get(name) == old
        self.told.pop(name, None)
        if new:
            self.told[name] = new
        self._changed.set()


def compact(plane: ControlPlane) -> None:
    """Make etcd forget everything but the present."""
    tls = ssl.create_default_context(cafile=plane.etcd_ca)
    tls.load_cert_chain(plane.etcd_cert, plane.etcd_key)

    def call(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(plane.etcd_endpoints[0] + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, context=tls, timeout=60) as answer:
            return json.load(answer)

    present = call("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})["header"]["revision"]
    call("/v3/kv/compaction", {"revision": present, "physical": True})


async def restart(plane: ControlPlane) -> None:
    plane.apiserver.service.kill()
    await asyncio.to_thread(plane.apiserver.service.start)


async def test_a_watch_survives_a_killed_api_server(plane: ControlPlane) -> None:
    label = f"kill-{ULID()}".lower()
    async with connect(plane) as kube:
        followed = Followed(kube, label)
        async with followed.reflector as reflector:
            await kube.create(secret(f"{label}-1", 1))
            await followed.until(lambda: len(followed.told) == 1)
            await restart(plane)
            await kube.create(secret(f"{label}-2", 2))
            await kube.delete(Ref(SECRET, NAMESPACE, f"{label}-1"))

            await followed.until(lambda: set(followed.told) == {f"{label}-2"})

        assert reflector.trouble is None
        listing = await kube.list(SECRET, NAMESPACE, label_selector=f"test={label}")
        assert list(reflector.store.values()) == listing.items


async def test_a_history_that_was_compacted_is_gone_and_the_reflector_lists_again(plane: ControlPlane) -> None:
    label = f"compact-{ULID()}".lower()
    async with connect(plane) as kube:
        for index in range(3):
            await kube.create(secret(f"{label}-{index}", 0))
        before = await kube.list(SECRET, NAMESPACE, label_selector=f"test={label}")
        await kube.delete(Ref(SECRET, NAMESPACE, f"{label}-0"))
        await kube.apply(secret(f"{label}-1", 1), force=True)
        await kube.create(secret(f"{label}-3", 0))
        compact(plane)
        await restart(plane)

        with pytest.raises(Gone):
            await _drained(kube, before.resource_version)
        followed = _was_away_since(before, kube, label)
        async with followed.reflector as reflector:
            await followed.until(lambda: set(followed.told) == {f"{label}-{index}" for index in (1, 2, 3)})
            now = await kube.list(SECRET, NAMESPACE, label_selector=f"test={label}")

        assert reflector.store == {item["metadata"]["name"]: item for item in now.items}
        assert reflector.trouble is None


async def _drained(kube: Connection, resource_version: str) -> None:
    async with aclosing(kube.watch(SECRET, NAMESPACE, resource_version)) as stream:
        async for _ in stream:
            pass


def _was_away_since(before: Any, kube: Connection, label: str) -> Followed:
    followed = Followed(kube, label)
    followed.told = {item["metadata"]["name"]: item for item in before.items}
    followed.reflector.store = dict(followed.told)
    followed.reflector.resource_version = before.resource_version
    followed.reflector._must_list = False
    followed.reflector._alive_at = time.monotonic()
    return followed


async def test_a_frozen_api_server_is_noticed_by_calls_and_watches(plane: ControlPlane) -> None:
    label = f"frozen-{ULID()}".lower()
    async with connect(plane, deadline=15) as kube:
        listing = await kube.list(SECRET, NAMESPACE)
        async with aclosing(kube.watch(SECRET, NAMESPACE, listing.resource_version, silence=15)) as stream:
            assert (await anext(stream)).type == "BOOKMARK"
            await kube.version()  # leaves a connection open for the next call, for less than the watch's silence
            plane.apiserver.service.signal(signal.SIGSTOP)
            try:
                cut, sent = await asyncio.gather(
                    _unreachable(anext(stream)), _unreachable(kube.create(secret(f"{label}-1", 1)))
                )
                unsent = await _unreachable(kube.create(secret(f"{label}-2", 1)))
            finally:
                plane.apiserver.service.signal(signal.SIGCONT)

    # The first write left over the open connection: the server may carry it out when it wakes, after the caller's
    # deadline. This is why Workflows are staged first, and writes fenced by epochs (P1, P4).
    assert (cut.maybe_done, sent.maybe_done, unsent.maybe_done) == (False, True, False)
    async with connect(plane, deadline=60) as kube:
        with pytest.raises(NotFound):
            await kube.get(Ref(SECRET, NAMESPACE, f"{label}-2"))


async def _unreachable(call: Awaitable[object]) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        await call
    return caught.value


async def test_a_burst_of_3000_changes_arrives_complete(plane: ControlPlane) -> None:
    label = f"burst-{ULID()}".lower()
    names = [f"{label}-{index}" for index in range(300)]
    async with connect(plane, qps=10_000, burst=10_000, deadline=60) as kube:
        followed = Followed(kube, label)
        async with followed.reflector as reflector:
            await asyncio.gather(*(kube.create(secret(name, 0)) for name in names))
            for value in range(1, 9):
                await asyncio.gather(
                    *(kube.patch(Ref(SECRET, NAMESPACE, name), {"stringData": {"value": str(value)}}) for name in names)
                )
            await asyncio.gather(*(kube.delete(Ref(SECRET, NAMESPACE, name)) for name in names[1:]))
            last = base64.b64encode(b"8").decode()

            await followed.until(
                lambda: set(followed.told) == set(names[:1]) and followed.told[names[0]]["data"]["value"] == last
            )

        assert set(reflector.store) == set(names[:1])
