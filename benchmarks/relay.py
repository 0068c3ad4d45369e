"""What the way through the relay costs: from a change at a pod until a replica far from etcd has told of it.

    python -m benchmarks.relay [CHANGES]

A real node with the swarm in pods. One replica outside has a kubeconfig alone and goes through the API server's service
proxy and the pods' relay; another, on the same computer, has etcd's address and certificates. Each change of a machine
is asked for at the pods' Service, and a client of each of the two follows the feed.
"""

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import aiohttp
import uvloop

from benchmarks.harness import Row, milliseconds, percentile, publish, spread
from benchmarks.provisions import machine
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from tests.node.deployed import Deployed
from tests.node.laptop import Laptop, tell_the_way
from tests.node.node import Node

AIM: Final = 0.25
"""Seconds that 99 % of the changes may take."""
_NAME: Final = "relayed"
_MARK: Final = re.compile(rb'"at": ?"(\d+)"')
_PAUSE: Final = 0.02
"""Seconds between a change that both have told and the next."""
_WARM: Final = 20
"""Changes that are thrown away."""
_PATIENCE: Final = 60


class Heard(NamedTuple):
    """Seconds from before each change was asked for until a client had it."""

    beside: list[float]
    relayed: list[float]


class Follower:
    """A client of one replica's feed."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/events?kind=Machine"
        self._lags: dict[int, float] = {}
        self._news = asyncio.Event()

    async def follow(self, session: aiohttp.ClientSession, ready: asyncio.Event) -> None:
        """Listen until cancelled."""
        async with session.get(self._url, headers={"Accept": "text/event-stream"}, timeout=None) as answer:
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(f"{self._url}: {answer.status} {await answer.text()}")
            ready.set()
            async for line in answer.content:
                now = time.monotonic_ns()
                for mark in _MARK.findall(line):
                    self._lags.setdefault(int(mark), (now - int(mark)) / 1e9)
                    self._news.set()

    async def lag(self, mark: int) -> float:
        """Return how late the change with this mark was, once it has come."""
        async with asyncio.timeout(_PATIENCE):
            while mark not in self._lags:
                self._news.clear()
                await self._news.wait()
        return self._lags[mark]


async def measure(pods: str, token: str, urls: Sequence[str], changes: int) -> Heard:
    """Change one machine again and again at `pods`, and follow it at both `urls`."""
    heard = Heard([], [])
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        followers = [Follower(url) for url in urls]
        ready = [asyncio.Event() for _ in followers]
        body = machine(_NAME, 1)
        async with session.post(f"{pods}/api/v1/machines", json=body) as answer:
            answer.raise_for_status()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each.follow(session, begun)) for each, begun in zip(followers, ready, strict=True)
            ]
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*(begun.wait() for begun in ready))
            for number in range(_WARM + changes):
                lags = await _change(session, pods, followers)
                if number >= _WARM:
                    for column, lag in zip(heard, lags, strict=True):
                        column.append(lag)
                await asyncio.sleep(_PAUSE)
            for task in tasks:
                task.cancel()
    return heard


async def _change(session: aiohttp.ClientSession, pods: str, followers: Sequence[Follower]) -> list[float]:
    mark = time.monotonic_ns()
    patch = {"metadata": {"labels": {"at": str(mark)}}}
    headers = {"Content-Type": "application/merge-patch+json", "If-Match": "*"}
    async with session.patch(f"{pods}/api/v1/machines/{_NAME}", json=patch, headers=headers) as answer:
        answer.raise_for_status()
    return list(await asyncio.gather(*(follower.lag(mark) for follower in followers)))


def rows(heard: Heard) -> list[Row]:
    """Compare the two ways."""
    p50 = median(heard.relayed) / median(heard.beside)
    p99 = percentile(heard.relayed, 0.99)
    times = p99 / percentile(heard.beside, 0.99)
    return [
        Row("change → client of a replica that reaches etcd", spread(heard.beside), "1"),
        Row(
            "change → client of a replica that has a kubeconfig alone",
            f"{spread(heard.relayed)}, max {milliseconds(max(heard.relayed))}",
            f"p50 {p50:.1f} ×, p99 {times:.1f} ×; p99 {p99 / AIM:.2f} of {milliseconds(AIM)}",
        ),
    ]


def main(changes: int) -> None:
    """Measure and publish."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dragonfly-relay-")))
        ports = stack.enter_context(PortLease())
        node = stack.enter_context(Node(directory / "node", ports).running())
        deployed = stack.enter_context(Deployed(node, ports).running())
        tell_the_way(deployed, [f"https://{LOOPBACK}:1"])
        access = node.etcd.access
        direct = {
            "DRAGONFLY_ETCD_ENDPOINTS": ",".join(node.etcd.endpoints),
            "DRAGONFLY_ETCD_CA_FILE": str(access.ca),
            "DRAGONFLY_ETCD_CERT_FILE": str(access.client.certificate),
            "DRAGONFLY_ETCD_KEY_FILE": str(access.client.key),
        }
        beside = _running(stack, deployed, ports, directory, "beside", direct)
        relayed = _running(stack, deployed, ports, directory, "relayed", {})
        if (source := relayed.api.get("mode")["etcd"]["source"]) != "relay":
            raise RuntimeError(f"it goes to etcd by {source}, not through the relay")
        heard = uvloop.run(measure(deployed.url, deployed.token, [beside.url, relayed.url], changes))
    publish(
        "The relay: a replica with a kubeconfig alone beside one that reaches etcd",
        f"{changes} changes of a machine, one at a time, asked for at the Service of three replicas in pods of a real "
        "node; times are from before the request until a client of another replica has the change in its feed. The one "
        "replica reaches etcd; the other goes through the API server's service proxy and the relay of the pods. All "
        "parts share two cores.",
        rows(heard),
    )


def _running(  # noqa: PLR0917 - one replica of this benchmark
    stack: ExitStack, deployed: Deployed, ports: PortLease, directory: Path, name: str, told: dict[str, str]
) -> Laptop:
    own = directory / name
    own.mkdir()
    return stack.enter_context(Laptop.running(deployed, ports, own, name=name, told=told))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
