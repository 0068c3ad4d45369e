"""Three clusters, three sites, five replicas and one that looks on; then one cluster is slow, and one is stopped.

`DRAGONFLY_SITES_MACHINES` says how many machines there are in all, 9 if not. At most 40 are under way in each cluster
at once, as in `benchmarks.sites`, which installs 3,000 and tells why.
"""

import itertools
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.model.values import LOCAL
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.gates import Gates, named
from dragonfly.sandbox.ports import PortLease
from tests.e2e.api import Api
from tests.e2e.audit import read_audit
from tests.e2e.fleet import each_once
from tests.e2e.site import Agents, Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SITES: Final = {"a": "fra1", "b": "fra1", "c": "ber1", "d": "ber1", "e": "home", "f": "home"}
OBSERVER: Final = "f"
ROUTES: Final = {"fra1": (LOCAL, "ber", "fra"), "ber1": (LOCAL, "ber"), "home": (LOCAL, "ber")}
"""The cluster fra is reached from fra1 alone."""
SLOW: Final = 20.0
_MACHINES: Final = int(os.environ.get("DRAGONFLY_SITES_MACHINES", "9"))
_AT_ONCE: Final = 40
"""Machines of each cluster that are provisioned at once."""
_PATIENCE: Final = 60.0 + min(_MACHINES, 3 * _AT_ONCE)
_LEASE: Final = "15"
"""Seconds. No replica dies here, and none must be taken for dead because so many processes keep it waiting."""
_QUICK: Final = Behaviour(seed=1, shortest=0.05, longest=0.1)
_ACTION: Final = {"name": "write", "image": "quay.io/tinkerbell/actions/image2disk:latest", "timeout": 60}
_TEMPLATE: Final = {"os": {"family": "ubuntu", "version": "24.04", "arch": "x86_64"}, "actions": [_ACTION]}


class World:
    """The swarm, its clusters, and the sites' ways to them."""

    def __init__(self, planes: Mapping[str, ControlPlane], gates: Gates, directory: Path, ports: PortLease) -> None:
        kubeconfig = directory / "local.kubeconfig"
        kubeconfig.write_text(named(planes[LOCAL].kubeconfig.read_text(), LOCAL))
        own = {replica: gates.environment(site) for replica, site in SITES.items()}
        own[OBSERVER] |= {"DRAGONFLY_OBSERVE": "yes"}
        environment = {"KUBECONFIG": str(kubeconfig), "DRAGONFLY_LEASE_TTL": _LEASE}
        self.site = Site(planes[LOCAL], directory, ports, len(SITES), environment=environment, own=own)
        self.planes = planes
        self.gates = gates
        self._directory = directory
        self.urls = {replica.id: replica.url for replica in self.site.swarm.replicas}
        self.asked: dict[str, list[str]] = {name: [] for name in planes}
        """The provisions in each cluster."""
        self._apis: dict[str, Api] = {}

    @contextmanager
    def running(self) -> Iterator["World"]:
        with ExitStack() as stack:
            stack.enter_context(self.site.running())
            self._apis = {name: stack.enter_context(self.site.api_at(url)) for name, url in self.urls.items()}
            self.site.template("ubuntu", _TEMPLATE)
            for name, sites in (("ber", ["ber1"]), ("fra", ["fra1"])):
                kubeconfig = named(self.planes[name].kubeconfig.read_text(), name)
                spec = {"kubeconfig": kubeconfig, "sites": sites, "shards": 4}
                self.site.api.post("clusters", {"metadata": {"name": name}, "spec": spec})
            self.machines = {name: self.site.machines(_MACHINES // len(self.planes)) for name in self.planes}
            for name, machines in self.machines.items():
                stack.enter_context(self._agents(name, machines))
            yield self

    def asks(self, cluster: str, machine: Machine, replica: str) -> str:
        """Have a machine provisioned through one replica; the provision's name."""
        accepted = self._apis[replica].post(f"machines/{machine.name}/provision", {"template": "ubuntu"})
        provision: str = accepted["metadata"]["name"]
        self.asked[cluster].append(provision)
        return provision

    def asks_for_all(self, *replicas: str) -> None:
        """Have all machines provisioned, through these replicas in turn, so many at once; each succeeds."""
        turns = itertools.cycle(replicas)
        for start in range(0, _MACHINES // len(self.machines), _AT_ONCE):
            portions = {name: machines[start : start + _AT_ONCE] for name, machines in self.machines.items()}
            self.succeeded(*(self.asks(name, one, next(turns)) for name, some in portions.items() for one in some))

    def register(self) -> None:
        """All machines, through a replica that neither reaches their cluster nor might drive them."""
        for cluster, machines in self.machines.items():
            for machine in machines:
                document = machine.document()
                document["spec"]["cluster"] = cluster
                self._apis[OBSERVER].post("machines", document)

    def succeeded(self, *provisions: str) -> None:
        for name in provisions:
            eventually_equal(partial(self.site.phase, name), "Succeeded", within=_PATIENCE)

    def swarm(self, replica: str) -> dict[str, Any]:
        with self.site.api_at(self.urls[replica]) as api:
            view: dict[str, Any] = api.get("swarm")
        return view

    def drivers(self, cluster: str) -> set[str]:
        """Who drives the cluster's shards; "" for nobody."""
        return set(self.cluster(cluster, "a")["owners"].values())

    def epochs(self, cluster: str) -> dict[int, int]:
        """Under which epoch each shard of a cluster is driven."""
        return {claim["shard"]: claim["epoch"] for claim in self.swarm("a")["claims"] if claim["cluster"] == cluster}

    def cluster(self, name: str, replica: str) -> dict[str, Any]:
        """What a replica tells of a cluster."""
        with self.site.api_at(self.urls[replica]) as api:
            status: dict[str, Any] = api.get(f"clusters/{name}")["status"]
        return status

    def unreached(self, name: str, replica: str) -> dict[str, Any]:
        """The same, if it is that nobody reaches it."""
        status = self.cluster(name, replica)
        return {} if status["reachable"] else status

    def gauges(self, replica: str, name: str) -> dict[str, float]:
        """A metric of a replica, by its labels."""
        with urllib.request.urlopen(f"{self.urls[replica]}/metrics", timeout=10) as answer:
            found = re.findall(rf"^{name}{{(.*)}} (\S+)$", answer.read().decode(), re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def cli(self, replica: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"DRAGONFLY_SERVER": self.urls[replica], "DRAGONFLY_TOKEN": self.site._token, "PATH": "/usr/bin"}
        command = [sys.executable, "-m", "dragonfly", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    @contextmanager
    def _agents(self, cluster: str, machines: list[Machine]) -> Iterator[None]:
        """Switch machines on that boot from their cluster's Tinkerbell."""
        agents = Agents(self._directory / f"agents-{cluster}", self.planes[cluster].tink_server, machines, _QUICK)
        agents.service.start()
        try:
            yield
        finally:
            agents.service.stop()


@pytest.fixture
def world(control_plane: ControlPlane, ports: PortLease, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        others = [ControlPlane(tmp_path / name) for name in ("ber", "fra")]
        with ThreadPoolExecutor(len(others)) as starting:
            planes = dict(zip(("ber", "fra"), starting.map(stack.enter_context, others), strict=True))
        planes[LOCAL] = control_plane
        servers = {name: plane.apiserver.url for name, plane in planes.items()}
        places = {site: ports.take() for site in ROUTES}
        gates = stack.enter_context(Gates(places, servers, ROUTES))
        yield stack.enter_context(World(planes, gates, tmp_path, ports).running())


def test_each_cluster_is_driven_from_where_it_is_reached_and_a_bad_one_is_told_and_harms_no_other(world: World) -> None:
    """P1, P6, P12."""
    _all_is_driven(world)
    world.register()
    world.asks_for_all(OBSERVER, "c", "a")
    _is_told_by_site(world)
    _the_observer_did_nothing(world)

    pids = {replica.id: replica.service.pid for replica in world.site.swarm.replicas}
    epochs = world.epochs("fra")
    world.gates.slow(LOCAL, SLOW)
    world.planes["ber"].apiserver.service.kill()
    for name in (LOCAL, "ber"):
        _is_told_as_unreachable(world, name)
    waiting = [world.asks(name, world.machines[name][0], "c") for name in (LOCAL, "ber")]
    world.succeeded(*(world.asks("fra", machine, "d") for machine in world.machines["fra"][:3]))
    assert {world.site.phase(name) for name in waiting} <= {"Pending", "Starting"}
    assert world.epochs("fra") == epochs, "its shards stayed where they were"

    world.gates.heal(LOCAL)
    world.planes["ber"].apiserver.service.start()
    # Without its API server it ends by itself, sooner or later; whatever keeps it in a cluster starts it again.
    world.planes["ber"].tinkerbell.service.stop()
    world.planes["ber"].tinkerbell.service.start()
    world.succeeded(*waiting)
    _all_is_driven(world)
    assert {replica.id: replica.service.pid for replica in world.site.swarm.replicas} == pids, "none was restarted"
    _the_observer_did_nothing(world)
    for name, plane in world.planes.items():
        each_once(partial(read_audit, plane.audit_log), world.asked[name])


def _all_is_driven(world: World) -> None:
    """Each cluster by replicas of its own sites that reach it, evenly, and never by the one that looks on."""
    eventually_equal(lambda: world.drivers("fra"), {"a", "b"}, within=_PATIENCE)
    eventually_equal(lambda: world.drivers("ber"), {"c", "d"}, within=_PATIENCE)
    eventually_equal(lambda: world.drivers(LOCAL), {"a", "b", "c", "d", "e"}, within=_PATIENCE)


def _is_told_by_site(world: World) -> None:
    """Every replica tells who reaches fra; also those that do not."""
    expected = {name: (site, site == "fra1") for name, site in SITES.items() if name != OBSERVER}
    for replica in SITES:
        eventually_equal(partial(_reach, world, replica), expected, within=_PATIENCE)
        eventually_equal(partial(_reached_from, world, replica), [2.0, 0.0, 0.0], within=_PATIENCE)
    told = eventually("the command line says that all is well", partial(_well, world, "c"), within=_PATIENCE)
    assert re.search(r"^fra +fra1 +fra1: a,b +ber1: c,d; home: e +4/4$", told, re.MULTILINE), told
    assert "does not reach cluster fra" not in told, "they need not"
    described = world.cli(OBSERVER, "describe", "cluster", "fra").stdout
    assert re.search(r"^e +home +no, since \S+ +\S+", described, re.MULTILINE), described


def _reach(world: World, replica: str) -> dict[str, tuple[str, bool]]:
    """From which site each replica reaches fra, or does not, as one tells; it must say why and since when not."""
    said = {one["replica"]: one for one in world.cluster("fra", replica)["replicas"]}
    assert all(one["since"] and one["reason"] for one in said.values() if not one["reachable"]), said
    return {name: (one["site"], one["reachable"]) for name, one in said.items()}


def _reached_from(world: World, replica: str) -> list[float | None]:
    """How many replicas of each site reach fra, as one measures."""
    reached = world.gauges(replica, "dragonfly_cluster_reached_from")
    return [reached.get(f'cluster="fra",site="{site}"') for site in ("fra1", "ber1", "home")]


def _unreachable_seconds(world: World, name: str, replica: str) -> float:
    return world.gauges(replica, "dragonfly_cluster_unreachable_seconds").get(f'cluster="{name}"', 0.0)


def _well(world: World, replica: str) -> str:
    """What `dragonfly swarm` says, if that is that nothing is amiss."""
    told = world.cli(replica, "swarm")
    return told.stdout if told.returncode == 0 else ""


def _the_observer_did_nothing(world: World) -> None:
    view = world.swarm(OBSERVER)
    members = {member["id"]: (member.get("observes", False), member["claims"]) for member in view["members"]}
    assert members[OBSERVER] == (True, 0)
    assert [name for name, (observes, _) in members.items() if observes] == [OBSERVER]
    assert view["self"]["state"] == "observing"
    assert world.gauges(OBSERVER, "dragonfly_kube_calls_total") == {}
    assert re.search(rf"^{OBSERVER} .* observes$", world.cli("a", "swarm").stdout, re.MULTILINE)


def _is_told_as_unreachable(world: World, name: str) -> None:
    """By API, command line and metrics, through a replica that drove it and through the one that looks on."""
    for replica in ("c", OBSERVER):
        status = eventually(
            f"{replica} tells that {name} is out of reach",
            lambda: world.unreached(name, replica),  # noqa: B023 - called within its round alone
            within=_PATIENCE,
        )
        assert status["since"]
        assert status["reason"]
        eventually("it is measured", partial(_unreachable_seconds, world, name, replica), within=_PATIENCE)
        told = world.cli(replica, "swarm")
        assert told.returncode == 1
        assert f"Cluster {name} is not reachable since" in told.stdout, told.stdout
