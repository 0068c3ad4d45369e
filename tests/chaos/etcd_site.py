"""Three replicas, each on a node with a member of etcd beside it, that people use all the time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Final

from dragonfly.model.values import LOCAL
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.swarm import Replica
from dragonfly.swarm.shards import shard_of
from tests.chaos.etcd_members import Members, SplitPlane
from tests.chaos.history import RecordingApi
from tests.chaos.netns import Network
from tests.chaos.verdict import SHARDS, Evidence
from tests.chaos.witnessed import WitnessedSite
from tests.e2e.fleet import ENDS, all_ended, predicted, provisions, two_actions
from tests.e2e.site import Agents, Machine
from tests.e2e.waiting import eventually, eventually_equal

MACHINES: Final = 300
"""More than are ever asked for."""
LEASE: Final = 6
"""Seconds: all of it runs on a few processors, and who waits for one must not lose a lease of the usual 3."""
_PACE: Final = 0.8
"""Seconds between two that are asked for: they last, though everything takes twice as long as it should."""
_BEHAVIOUR: Final = Behaviour(seed=21, fail_rate=0.1, shortest=0.3, longest=2.0)


class EtcdSite(WitnessedSite):
    """Replica a is on node 0, beside member 0, and so on; each asks its own member first."""

    def __init__(
        self, plane: SplitPlane, members: Members, network: Network, directory: Path, ports: PortLease
    ) -> None:
        """Nothing starts before `running`; the plane, the members and the network must be there."""
        hosts = {chr(ord("a") + number): node.host for number, node in enumerate(network.nodes)}
        endpoints = members.etcd.endpoints
        own = {
            replica: {"DRAGONFLY_ETCD_ENDPOINTS": ",".join((*endpoints[number:], *endpoints[:number]))}
            for number, replica in enumerate(hosts)
        }
        lease = {"DRAGONFLY_LEASE_TTL": str(LEASE)}
        super().__init__(plane, directory, ports, len(hosts), environment=lease, own=own, hosts=hosts)
        self.members = members
        self.network = network
        self.asked: dict[str, str] = {}
        """The provision of each machine that was asked for."""
        self._fleet = self.machines(MACHINES)
        self._fresh = iter(self._fleet)
        self._clients = itertools.count(1)
        self._agents_of_all: Agents | None = None
        self.usual_owners: dict[str, str] = {}

    @contextmanager
    def running(self) -> Iterator[EtcdSite]:
        with ExitStack() as stack:
            stack.enter_context(super().running())
            self._template = self.template("ubuntu-2404", two_actions())
            self._agents_of_all = stack.enter_context(self.agents(self._fleet, _BEHAVIOUR))
            self.usual_owners = eventually("every shard has the owner that it keeps", self.settled_owners, within=120)
            yield self

    @contextmanager
    def used(self) -> Iterator[None]:
        """For the length of the block people ask for one machine after another, and read from every replica."""
        stopped = Event()
        with ThreadPoolExecutor(1, thread_name_prefix="people") as people:
            asking = people.submit(self._ask, stopped)
            try:
                with self.readers():
                    yield
            finally:
                self.mend()
                stopped.set()
            asking.result()

    def judged(self) -> Evidence:
        """Wait until everything that was accepted has ended, and check every promise on all that happened so far."""
        assert self._agents_of_all is not None
        all_ended(self, len(self.asked), within=200)
        ends = predicted(_BEHAVIOUR, self._fleet)
        expected = {provision: {ends[machine]} for machine, provision in self.asked.items()}
        return self.verdict(expected, self._agents_of_all.trace(), within=30)

    def more_ended(self, count: int, *, within: float = 120) -> None:
        """Wait until so many more provisions have ended than now."""
        before = self._count_ended()
        eventually(f"{count} more provisions end", lambda: self._count_ended() >= before + count, within=within)

    def mend(self) -> None:
        """Undo whatever was done to etcd, and wait until every replica does again what it did before."""
        self.network.heal()
        self.members.mend()
        eventually_equal(self.owners, self.usual_owners, within=120)
        urls = [f"{replica.url}/readyz" for replica in self.swarm.replicas]
        eventually("every replica is ready", lambda: all(map(http_ok, urls)), within=120)

    def machine_of(self, replica: Replica) -> Machine:
        """One that this replica drives as a rule, and that is in its cluster by now."""

        def found() -> list[Machine]:
            there = self.netboot()
            return [one for one in self._fleet if self._usual_owner(one) == replica.id and one.name in there]

        return eventually(f"replica {replica.id} has a machine", found, within=120)[0]

    def client_of(self, replica: Replica) -> RecordingApi:
        """A client of its own for one replica."""
        return self._client(replica.url)

    def _usual_owner(self, machine: Machine) -> str:
        return self.usual_owners[f"{LOCAL}/{shard_of(machine.name, SHARDS)}"]

    def _client(self, url: str) -> RecordingApi:
        return RecordingApi(url, self._token, self.history, f"client {next(self._clients)}")

    def _count_ended(self) -> int:
        return sum(item["status"]["phase"] in ENDS for item in provisions(self).values())

    def _ask(self, stopped: Event) -> None:
        with self._client(self.balancer.url) as api:
            while not stopped.wait(_PACE):
                machine = next(self._fresh, None)
                assert machine is not None, "it took so long that every machine was asked for"
                self._ask_for(api, machine)

    def _ask_for(self, api: RecordingApi, machine: Machine) -> None:
        api.post("machines", machine.document())
        provision = api.post(f"machines/{machine.name}/provision", {"template": self._template})
        self.asked[machine.name] = provision["metadata"]["name"]
