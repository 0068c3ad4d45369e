"""What the store costs beside etcd3gw as it comes: puts a second, CPU of the client for each, and watch latency.

`python benchmarks/store.py`: starts an etcd of its own on loopback; all figures are of one run on one machine, and only
their ratios mean something elsewhere.
"""

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

import etcd3gw
import uvloop

from benchmarks.harness import Row, publish
from dragonfly.sandbox import toolchain
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.store.client import EtcdStore
from dragonfly.store.follow import Follower
from dragonfly.store.mirror import Mirror
from dragonfly.store.settings import EtcdSettings
from dragonfly.store.values import Put

IN_FLIGHT = 16
VALUE = b"v" * 500
ROUNDS = 3


class Cost(NamedTuple):
    """Of one put."""

    per_second: float
    cpu_us: float


def stock(port: int, puts: int) -> Cost:
    """etcd3gw with its own session, one client shared by the threads."""
    client = etcd3gw.client(host=LOOPBACK, port=port, api_path="/v3/")

    def work(worker: int) -> None:
        for number in range(puts // IN_FLIGHT):
            client.put(f"/stock/{worker}/{number % 50}", VALUE)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(IN_FLIGHT)]
    with Stopwatch(puts) as watch:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return watch.cost


async def ours(store: EtcdStore, puts: int) -> Cost:
    async def work(worker: int) -> None:
        for number in range(puts // IN_FLIGHT):
            await store.commit(Put(f"ours/{worker}/{number % 50}", VALUE))

    with Stopwatch(puts) as watch:
        await asyncio.gather(*map(work, range(IN_FLIGHT)))
    return watch.cost


class Stopwatch:
    def __init__(self, count: int) -> None:
        self._count = count
        self.cost = Cost(0, 0)

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self.cost = Cost(self._count / wall, cpu / self._count * 1e6)


async def one_at_a_time(call: Callable[[int], Awaitable[object]], count: int) -> list[float]:
    latencies = []
    for number in range(count):
        begun = time.perf_counter()
        await call(number)
        latencies.append(time.perf_counter() - begun)
    return latencies


async def watched(store: EtcdStore, count: int) -> list[float]:
    """From before the commit is called until a subscriber of a mirror in the same process is told."""
    mirror = Mirror(lambda _, value: value, clock=time.monotonic, on_undecodable=print)
    follower = Follower(store, store.gateway, mirror, jitter=lambda: 0.5)
    told: asyncio.Queue[float] = asyncio.Queue()
    mirror.subscribe("watched/", lambda _: told.put_nowait(time.perf_counter()))
    await follower.start()
    await mirror.wait_for(1, 10)
    latencies = []
    for number in range(count):
        begun = time.perf_counter()
        await store.commit(Put(f"watched/{number % 50}", VALUE))
        latencies.append(await told.get() - begun)
    await follower.stop()
    return latencies


async def ranged(store: EtcdStore, keys: int) -> float:
    """Seconds to range over that many keys of 500 bytes."""
    names = [f"ranged/{number:06}" for number in range(keys)]
    for start in range(0, keys, 100):
        await store.commit(*(Put(name, VALUE) for name in names[start : start + 100]))
    begun = time.perf_counter()
    snapshot = await store.range("ranged/")
    assert len(snapshot.items) == keys
    return time.perf_counter() - begun


def percentiles(latencies: list[float]) -> str:
    cuts = statistics.quantiles(latencies, n=100)
    return f"p50 {cuts[49] * 1e3:.2f} ms  p99 {cuts[98] * 1e3:.2f} ms"


def median(costs: Iterable[Cost]) -> Cost:
    rates, cpus = zip(*costs, strict=True)
    return Cost(statistics.median(rates), statistics.median(cpus))


async def measure(port: int) -> None:
    async with EtcdStore(EtcdSettings(endpoints=(f"http://{LOOPBACK}:{port}",))) as store:
        await ours(store, 320)
        pairs = [(await asyncio.to_thread(stock, port, 1600), await ours(store, 8000)) for _ in range(ROUNDS)]
        as_it_comes, lean = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        single = await one_at_a_time(lambda number: store.commit(Put(f"one/{number % 50}", VALUE)), 1000)
        rows = [
            Row(
                "etcd3gw as it comes",
                f"{as_it_comes.per_second:.0f} puts/s, {as_it_comes.cpu_us:.0f} µs of CPU each",
                "1",
            ),
            Row(
                "EtcdStore",
                f"{lean.per_second:.0f} puts/s, {lean.cpu_us:.0f} µs of CPU each",
                f"{lean.per_second / as_it_comes.per_second:.1f} × the rate, "
                f"{lean.cpu_us / as_it_comes.cpu_us:.2f} of the CPU",
            ),
            Row("commit, one at a time", percentiles(single)),
            Row("commit → subscriber of the mirror", percentiles(await watched(store, 1000))),
            Row("range of 10,000 keys", f"{await ranged(store, 10_000) * 1e3:.0f} ms"),
        ]
    publish(
        "Store: etcd through its JSON gateway",
        f"Puts of 500 bytes with {IN_FLIGHT} in flight against one etcd, medians of {ROUNDS} rounds in turn.",
        rows,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, PortLease() as ports:
        port, peer = ports.take(), ports.take()
        url = f"http://{LOOPBACK}:{port}"
        command = (
            str(toolchain.binary("etcd")),
            f"--data-dir={directory}/data",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://{LOOPBACK}:{peer}",
            f"--initial-advertise-peer-urls=http://{LOOPBACK}:{peer}",
            f"--initial-cluster=default=http://{LOOPBACK}:{peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        etcd = Service(Program("etcd", command, Path(directory) / "log"), lambda: http_ok(f"{url}/health"), within=30)
        try:
            etcd.start()
            uvloop.run(measure(port))
        finally:
            etcd.stop()


if __name__ == "__main__":
    main()
