"""How soon people are told that a cluster is out of reach: by the API, by the metrics of all replicas, by the CLI."""

import asyncio
import os
import re
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from benchmarks.clusters import Api
from benchmarks.harness import Stage

_GLANCE: Final = 0.05
_PATIENCE: Final = 300


class Told(NamedTuple):
    """Seconds until it was told."""

    api: float
    metrics: float
    """By the last of the replicas."""
    cli: float
    """When `dragonfly swarm` had said so, its own start among it."""


async def told_of(cluster: str, running: Stage, api: Api, began: float) -> Told:
    """Wait until all of them tell, and return the seconds from `began` until each did."""

    async def by_the_api() -> bool:
        return not await is_reached(api, cluster)

    return Told(
        *await asyncio.gather(
            since(began, by_the_api),
            since(began, lambda: _is_measured(api, running, cluster)),
            since(began, lambda: _is_said(running, cluster)),
        )
    )


async def is_reached(api: Api, cluster: str) -> bool:
    return bool((await api.get(f"clusters/{cluster}"))["status"]["reachable"])


async def since(began: float, is_so: Callable[[], Awaitable[bool]]) -> float:
    """Wait until it is so, and return the seconds from `began` until then."""
    await until(is_so)
    return time.perf_counter() - began


async def until(is_so: Callable[[], Awaitable[bool]], *, within: float = _PATIENCE, every: float = _GLANCE) -> None:
    """Look again and again until it is so."""
    async with asyncio.timeout(within):
        while True:
            if await is_so():
                return
            await asyncio.sleep(every)


async def _is_measured(api: Api, running: Stage, cluster: str) -> bool:
    texts = [await _metrics(api, replica.url) for replica in running.swarm.replicas]
    wanted = re.compile(rf'^dragonfly_cluster_unreachable_seconds{{cluster="{cluster}"}} (.+)$', re.MULTILINE)
    found = [wanted.search(text) for text in texts]
    return all(one is not None and float(one[1]) > 0 for one in found)


async def _metrics(api: Api, url: str) -> str:
    async with api.session.get(f"{url}/metrics") as answer:
        return await answer.text()


async def _is_said(running: Stage, cluster: str) -> bool:
    environment = {**os.environ, "DRAGONFLY_SERVER": running.url, "DRAGONFLY_TOKEN": running.token}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dragonfly", "swarm", env=environment, stdout=PIPE, stderr=DEVNULL
    )
    said, _ = await process.communicate()
    return f"Cluster {cluster} is not reachable since" in said.decode()
