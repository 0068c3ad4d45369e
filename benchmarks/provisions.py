"""How fast intents become armed Workflows: three replicas beside a bare client of the same API server.

    python benchmarks/provisions.py [MACHINES [IDLE]]

The bare client does the three Kubernetes writes that a provision needs (apply the Hardware, create the Workflow staged,
arm it) and nothing else: no etcd, no claims, no promises. Its own limit of calls in flight is the same as Dragonfly's.
IDLE machines more are registered, and nobody installs them. Between any two measurements Tinkerbell comes to rest: what
it still did for one would slow down the next.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import aiohttp
import uvloop

from benchmarks.harness import Row, Stage, milliseconds, publish, spread, stage
from dragonfly.kube.channel import Limits
from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig
from dragonfly.kube.reflector import Reflector
from dragonfly.kube.resources import HARDWARE, WORKFLOW, Object, Ref
from dragonfly.kube.resources import TEMPLATE as TEMPLATE_KIND
from dragonfly.sandbox.inventory import mac

NAMESPACE = "tinkerbell"
IN_FLIGHT = 32
SERIAL = 100
CALM = 2.0
UNLIMITED = Limits(qps=1e6, burst=1e6, in_flight=IN_FLIGHT)
TEMPLATE: dict[str, Any] = {
    "metadata": {"name": "bench"},
    "spec": {
        "actions": [
            {"name": "stream", "image": "registry.example/image2disk:1", "timeout": 600},
            {
                "name": "finish",
                "image": "registry.example/writefile:1",
                "timeout": 60,
                "command": ["{{ machine.name }}"],
            },
        ]
    },
}


class Calm:
    """An independent watcher: whether Workflows and Hardware still change, so whether somebody has work with them."""

    def __init__(self, connection: Connection) -> None:
        self._reflectors = [
            Reflector(connection, resource, NAMESPACE, on_change=self._changed) for resource in (WORKFLOW, HARDWARE)
        ]
        self._news = asyncio.Event()

    async def start(self) -> None:
        for reflector in self._reflectors:
            reflector.start()
            await reflector.synced.wait()

    async def stop(self) -> None:
        for reflector in self._reflectors:
            await reflector.stop()

    async def reached(self, within: float = 300) -> None:
        """Return once nothing has changed for `CALM` seconds: Tinkerbell has done all that was asked of it before."""
        async with asyncio.timeout(within):
            while await self._changes_within(CALM):
                self._news.clear()

    async def _changes_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _changed(self, _name: str, _old: Object | None, _new: Object | None) -> None:
        self._news.set()


class Armed:
    """An independent watcher: when it saw each machine's Workflow armed."""

    def __init__(self, connection: Connection, namespace: str = NAMESPACE) -> None:
        """`namespace`: all of them if empty."""
        self.at: dict[str, float] = {}
        self._reflector = Reflector(connection, WORKFLOW, namespace, on_change=self._changed)
        self._news = asyncio.Event()

    async def start(self) -> None:
        self._reflector.start()
        await self._reflector.synced.wait()

    async def stop(self) -> None:
        await self._reflector.stop()

    async def seen(self, machines: set[str], within: float) -> None:
        """Return once the Workflow of every one of `machines` was seen armed."""
        async with asyncio.timeout(within):
            while not machines <= self.at.keys():
                self._news.clear()
                await self._news.wait()

    def _changed(self, _name: str, _old: Object | None, new: Object | None) -> None:
        if new is None or new["spec"].get("disabled", False):
            return
        self.at.setdefault(new["spec"]["hardwareRef"], time.perf_counter())
        self._news.set()


class Api:
    """Dragonfly's API through the load balancer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def post(self, path: str, body: dict[str, Any]) -> None:
        async with self._session.post(f"{self._url}/api/v1/{path}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{path}: {answer.status} {text}")

    async def register(self, count: int) -> list[str]:
        await self.post("templates", TEMPLATE)
        names = [f"d-{number}" for number in range(count)]
        await in_flight(lambda number: self.post("machines", machine(names[number], number)), count)
        return names

    async def provision(self, name: str) -> float:
        """Ask for a provision and return when that was asked."""
        asked = time.perf_counter()
        await self.post(f"machines/{name}/provision", {"template": "bench"})
        return asked


async def main(machines: int, idle: int) -> None:
    """Measure and publish."""
    with stage() as running:
        rows = await measure(running, machines, idle)
    beside = f", beside {idle:,} other machines" if idle else ""
    publish(
        f"Provisions: from intent to armed Workflow{beside}",
        f"{machines} provisions asked for with {IN_FLIGHT} in flight, then {SERIAL} one at a time, through HAProxy; an "
        "independent watcher says when each Workflow was armed. The simulated machines are off. Before each "
        "measurement Tinkerbell comes to rest.",
        rows,
    )


async def measure(running: Stage, machines: int, idle: int) -> list[Row]:
    """Return what the bare client and what Dragonfly did, in turn on the same API server."""
    source = Kubeconfig((running.plane.kubeconfig,))
    headers = {"Authorization": f"Bearer {running.token}"}
    async with (
        Connection(source, UNLIMITED) as bare,
        Connection(source, UNLIMITED) as watching,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        api, armed, calm = Api(session, running.url), Armed(watching), Calm(watching)
        names = (await api.register(idle + machines + SERIAL))[idle:]
        await armed.start()
        await calm.start()
        await bare.create(template())
        await calm.reached(within=1800)
        creates = await rate(lambda number: bare.create(workflow(f"bare-{number}", f"x-{number}")), machines)
        await calm.reached()
        alone = [await timed(bare.create(workflow(f"alone-{number}", f"y-{number}"))) for number in range(SERIAL)]
        await calm.reached()
        chains = await rate(lambda number: chain(bare, number), machines)
        await calm.reached()
        dragonfly = await sustained(api, armed, names[:machines])
        await calm.reached()
        latencies = [await latency(api, armed, name) for name in names[machines:]]
        await calm.stop()
        await armed.stop()
    one = median(alone)
    return [
        Row("bare client: Workflow creates", f"{creates:.0f}/s", "1"),
        Row("bare client: apply + create + arm", f"{chains:.0f}/s", f"{chains / creates:.2f} of bare creates"),
        Row(
            "three replicas: intent → armed",
            f"{dragonfly:.0f}/s",
            f"{dragonfly / chains:.2f} of the bare chain, {dragonfly / creates:.2f} of bare creates",
        ),
        Row("bare client: one create, alone", spread(alone), "1"),
        Row(
            "three replicas: intent → armed, alone", spread(latencies), f"p50 is {median(latencies) / one:.1f} creates"
        ),
        Row("slowest of those alone", milliseconds(max(latencies))),
    ]


async def sustained(api: Api, armed: Armed, names: list[str]) -> float:
    """Return provisions per second from the first intent until the last Workflow is armed."""
    began = time.perf_counter()
    await in_flight(lambda number: api.provision(names[number]), len(names))
    await armed.seen(set(names), within=300)
    return len(names) / (max(armed.at[name] for name in names) - began)


async def latency(api: Api, armed: Armed, name: str) -> float:
    asked = await api.provision(name)
    await armed.seen({name}, within=30)
    return armed.at[name] - asked


async def chain(bare: Connection, number: int) -> None:
    """Do the Kubernetes writes of one provision, and nothing else."""
    name = f"chain-{number}"
    await bare.apply(hardware(name, number))
    made = await bare.create(workflow(name, name))
    await bare.patch(
        Ref(WORKFLOW, NAMESPACE, name), {"metadata": {"uid": made["metadata"]["uid"]}, "spec": {"disabled": False}}
    )


async def rate(call: Callable[[int], Awaitable[Any]], count: int) -> float:
    began = time.perf_counter()
    await in_flight(call, count)
    return count / (time.perf_counter() - began)


async def in_flight(call: Callable[[int], Awaitable[Any]], count: int) -> None:
    """Make `count` calls, `IN_FLIGHT` at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for _ in itertools.repeat(None, IN_FLIGHT):
            group.create_task(worker())


async def timed(call: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began


def machine(name: str, number: int) -> dict[str, Any]:
    interface = {"mac": mac(number), "address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/8"}
    return {"metadata": {"name": name}, "spec": {"interfaces": [interface], "disks": [{"device": "/dev/sda"}]}}


def workflow(name: str, hardware_name: str) -> Object:
    spec = {"disabled": True, "templateRef": "bare", "hardwareRef": hardware_name, "hardwareMap": {"device_1": "none"}}
    return _object(WORKFLOW.api_version, WORKFLOW.kind, name, spec)


def template() -> Object:
    """What the bare client's Workflows render: without it Tinkerbell would try them again and again."""
    action = '{"name": "stream", "image": "registry.example/image2disk:1", "timeout": 600}'
    task = f'{{"name": "install", "worker": "{{{{ .device_1 }}}}", "actions": [{action}]}}'
    data = f'{{"version": "0.1", "name": "bare", "global_timeout": 600, "tasks": [{task}]}}'
    return _object(TEMPLATE_KIND.api_version, TEMPLATE_KIND.kind, "bare", {"data": data})


def hardware(name: str, number: int) -> Object:
    dhcp = {"mac": mac(1_000_000 + number), "hostname": name, "arch": "x86_64", "uefi": True}
    interface = {"dhcp": dhcp, "disableDhcp": False, "netboot": {"allowPXE": True, "allowWorkflow": True}}
    return _object(HARDWARE.api_version, HARDWARE.kind, name, {"agentID": dhcp["mac"], "interfaces": [interface]})


def _object(api_version: str, kind: str, name: str, spec: dict[str, Any]) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


if __name__ == "__main__":
    counts = [int(argument) for argument in sys.argv[1:]]
    uvloop.run(main(*(counts + [400, 0][len(counts) :])))
