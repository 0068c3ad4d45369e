"""The feed: how many clients one replica holds, how soon they get a change, and what each costs.

    python -m benchmarks.feed [HOLD] [FOLLOW] [SECONDS]

HOLD clients follow ten objects each while 100 changes a second are written; FOLLOW clients follow everything while 10
changes a second are, beside as many watches of etcd itself (through its JSON gateway) and of kube-apiserver. The
replica serves plain HTTP here, the other two TLS. All clients of a run are one process of Python.
"""

import asyncio
import base64
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop
import yaml

from benchmarks.harness import Row, Stage, milliseconds, publish, stage
from benchmarks.idle import cpu_seconds, resident
from benchmarks.listeners import Heard, Spec, tls_of
from dragonfly.model.template import Action, Template, TemplateSpec
from dragonfly.model.values import Metadata
from dragonfly.store import keys
from dragonfly.store.client import EtcdStore
from dragonfly.store.records import encode
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Put

OBJECTS: Final = 1_000
_EACH: Final = 10
_HOLD_RATE: Final = 100
_FOLLOW_RATE: Final = 10
_SETTLE: Final = 2.0
_CONFIG_MAPS: Final = 50
_ACTIONS: Final = tuple(
    Action(name=f"step-{number}", image="quay.io/tinkerbell/actions/image2disk:latest", timeout=600)
    for number in range(6)
)

Write = Callable[[int, str], Awaitable[None]]
"""Writes an object with a mark of the time."""


class Crowd(NamedTuple):
    """What a number of clients got."""

    heard: Heard
    written: int
    expected: int
    cpu: float
    """Cores that the server used."""
    memory: float
    """Bytes of the server for each client."""


async def measure(spec: Spec, pid: int, write: Write, *, rate: int, seconds: float, each: int) -> Crowd:
    """Let clients listen while something is written at a steady rate.

    Args:
        spec: the clients.
        pid: the server's process.
        write: writes one object.
        rate: writes a second.
        seconds: for how long.
        each: of how many clients each write is heard.
    """
    empty = resident(pid)
    async with listeners(spec) as result:
        await asyncio.sleep(_SETTLE)
        before, began = cpu_seconds(pid), time.monotonic()
        written = await steadily(write, rate=rate, seconds=seconds)
        cpu = (cpu_seconds(pid) - before) / (time.monotonic() - began)
        memory = (resident(pid) - empty) / len(spec.requests)
        await asyncio.sleep(_SETTLE)
        heard = await result()
    return Crowd(heard, written, written * each, cpu, memory)


@contextlib.asynccontextmanager
async def listeners(spec: Spec) -> AsyncIterator[Callable[[], Awaitable[Heard]]]:
    """Clients that are connected; gives what ends them and returns what they heard."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(spec))
        file.flush()
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.listeners", file.name, stdin=pipe, stdout=pipe
        )
        assert process.stdout is not None

        async def result() -> Heard:
            output, _ = await process.communicate(b"")  # without input it leaves standard input open
            return msgspec.json.decode(output, type=Heard)

        try:
            if (await process.stdout.readline()).strip() != b"ready":
                raise RuntimeError("the clients could not connect")
            yield result
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def steadily(write: Write, *, rate: int, seconds: float) -> int:
    """Write at a rate that does not wait for answers; returns how often."""
    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while time.monotonic() - began < seconds:
            group.create_task(_marked(write, number))
            number += 1
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
    return number


async def _marked(write: Write, number: int) -> None:
    await write(number % OBJECTS, str(time.monotonic_ns()))


async def to_etcd(store: EtcdStore, number: int, mark: str) -> None:
    now = datetime.now(UTC)
    metadata = Metadata(name=f"t-{number}", labels={"at": mark}, created_at=now, updated_at=now)
    template = Template(metadata=metadata, spec=TemplateSpec(actions=_ACTIONS))
    await store.commit(Put(keys.template(metadata.name), encode(template)))


def followers(running: Stage, count: int, *, each: int) -> Spec:
    """Clients of one replica's feed; each follows so many objects, or everything with 0."""
    url = urlsplit(running.swarm.replicas[0].url)
    requests = []
    for number in range(count):
        names = "&".join(f"name=t-{(number * each + one) % OBJECTS}" for one in range(each))
        requests.append(
            f"GET /api/v1/events?{names or 'kind=Template'} HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Authorization: Bearer {running.token}\r\nAccept: text/event-stream\r\n\r\n"
        )
    return Spec(url.hostname or "", url.port or 0, requests)


def etcd_watches(running: Stage, settings: EtcdSettings, count: int) -> Spec:
    url = urlsplit(settings.endpoints[0])
    everything = {"key": _encoded(settings.prefix), "range_end": _encoded(settings.prefix[:-1] + "0")}  # "/" and after
    body = json.dumps({"create_request": everything})
    request = f"POST /v3/watch HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    access = running.plane.etcd.access
    return Spec(
        url.hostname or "",
        url.port or 0,
        [request] * count,
        str(access.ca),
        str(access.client.certificate),
        str(access.client.key),
        base64=True,
    )


async def main(hold: int, follow: int, seconds: float) -> None:
    """Measure and publish."""
    with stage(2) as running:
        access = running.plane.etcd.access
        settings = EtcdSettings(
            endpoints=running.plane.etcd_endpoints,
            ca_file=access.ca,
            cert_file=access.client.certificate,
            key_file=access.client.key,
        )
        async with EtcdStore(settings) as store:
            rows = [row async for row in _rows(running, settings, store, hold=hold, follow=follow, seconds=seconds)]
    publish(
        "Feed: clients of one replica",
        f"{OBJECTS} templates, written to etcd directly; times are from before the write until a client has it. The "
        "clients are one process; servers, clients and writer share the machine.",
        rows,
    )


async def _rows(
    running: Stage, settings: EtcdSettings, store: EtcdStore, *, hold: int, follow: int, seconds: float
) -> AsyncIterator[Row]:
    async def write(number: int, mark: str) -> None:
        await to_etcd(store, number, mark)

    for number in range(OBJECTS):
        await write(number, "0")
    replica = running.swarm.replicas[0].service.pid
    spec = followers(running, follow, each=0)  # before the larger crowd, whose memory would be used again
    feed = await measure(spec, replica, write, rate=_FOLLOW_RATE, seconds=seconds, each=follow)
    spec = etcd_watches(running, settings, follow)
    etcd = running.plane.etcd.members[0].service.pid
    bare = await measure(spec, etcd, write, rate=_FOLLOW_RATE, seconds=seconds, each=follow)
    spec = followers(running, hold, each=_EACH)
    held = await measure(spec, replica, write, rate=_HOLD_RATE, seconds=seconds, each=hold * _EACH // OBJECTS)
    for row in _told(f"{hold} clients of {_EACH} objects each, {_HOLD_RATE} changes/s", held):
        yield row
    for row in _told(f"{follow} clients of everything, {_FOLLOW_RATE} changes/s", feed, bare):
        yield row
    for row in _told(f"{follow} watches of etcd, the same changes", bare):
        yield row
    kube = await _kube(running, follow, seconds)
    for row in _told(f"{follow} watches of kube-apiserver, as many changes of ConfigMaps", kube, bare):
        yield row


async def _kube(running: Stage, count: int, seconds: float) -> Crowd:
    document = yaml.safe_load(running.plane.admin_kubeconfig.read_text())
    server, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    url = urlsplit(server["server"])
    path = "/api/v1/namespaces/default/configmaps"
    request = f"GET {path}?watch=true HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n"
    directory = running.plane.directory / "kube-watches"
    directory.mkdir()
    spec = Spec(
        url.hostname or "",
        url.port or 0,
        [request] * count,
        _decoded(directory / "ca", server["certificate-authority-data"]),
        _decoded(directory / "certificate", user["client-certificate-data"]),
        _decoded(directory / "key", user["client-key-data"]),
    )
    connector = aiohttp.TCPConnector(ssl=tls_of(spec) or True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def write(number: int, mark: str) -> None:
            await _to_kube(session, f"{url.geturl()}{path}", number % _CONFIG_MAPS, mark)

        for number in range(_CONFIG_MAPS):
            await write(number, "0")
        pid = running.plane.apiserver.service.pid
        return await measure(spec, pid, write, rate=_FOLLOW_RATE, seconds=seconds, each=count)


async def _to_kube(session: aiohttp.ClientSession, url: str, number: int, mark: str) -> None:
    name = f"t-{number}"
    data = {action.name: action.image for action in _ACTIONS} | {"at": mark}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    async with session.put(f"{url}/{name}", json=body) as answer:
        if answer.status != HTTPStatus.NOT_FOUND:
            answer.raise_for_status()
            return
    async with session.post(url, json=body) as made:
        made.raise_for_status()


def _decoded(path: Path, text: str) -> str:
    path.write_bytes(base64.b64decode(text))
    return str(path)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _told(what: str, crowd: Crowd, beside: Crowd | None = None) -> Iterator[Row]:
    heard = crowd.heard
    ratio = ""
    if beside is not None:
        bare = beside.heard
        ratio = f"p50 {heard.p50 / bare.p50:.1f} ×, p99 {heard.p99 / bare.p99:.1f} × etcd's"
    yield Row(what, f"p50 {milliseconds(heard.p50)}, p99 {milliseconds(heard.p99)}", ratio)
    complete = f"{heard.events} of {crowd.expected} events, {heard.lost} connections lost"
    yield Row("", f"{complete}; {crowd.cpu:.2f} cores", f"{crowd.memory / 1e3:.1f} kB a client")


if __name__ == "__main__":
    _given = sys.argv[1:] + ["10000", "1000", "20"][len(sys.argv) - 1 :]
    uvloop.run(main(int(_given[0]), int(_given[1]), float(_given[2])))
