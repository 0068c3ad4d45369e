"""A site of the end-to-end tests with witnesses around it: whatever is done to it, in the end there is a verdict."""

import ssl
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final

from dragonfly.sandbox.agents import Step
from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.ports import PortLease
from tests.chaos.claims import ClaimWitness, Tenure
from tests.chaos.history import History, Readers, RecordingApi
from tests.chaos.verdict import SHARDS, Evidence, broken_promises
from tests.e2e.audit import Stamped, Unmarked, read_stamped, read_unmarked
from tests.e2e.fleet import Outcome, provisions
from tests.e2e.site import Site

_SETTLING: Final = 3.0
"""Seconds without a change after which none is to come: a replica asks for a shard of its own after one."""


class WitnessedSite(Site):
    """Replicas behind HAProxy whose clients record what they are told; claims are followed from the start."""

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        ports: PortLease,
        replicas: int = 3,
        *,
        environment: Mapping[str, str] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
        hosts: Mapping[str, Host] | None = None,
    ) -> None:
        self.history = History()
        super().__init__(plane, directory, ports, replicas, environment=environment, own=own, hosts=hosts)
        tls = ssl.create_default_context(cafile=plane.etcd_ca)
        tls.load_cert_chain(plane.etcd_cert, plane.etcd_key)
        self.claims = ClaimWitness(plane.etcd_endpoints, tls, self.prefix)

    @contextmanager
    def running(self) -> Iterator["WitnessedSite"]:
        with self.claims, super().running():
            yield self

    def api_at(self, url: str) -> RecordingApi:
        return RecordingApi(url, self._token, self.history, url)

    def client(self, name: str) -> RecordingApi:
        """One more client of the load balancer: each thread that asks needs its own, for the record is in order."""
        return RecordingApi(self.balancer.url, self._token, self.history, name)

    def readers(self, path: str = "provisions?limit=1000") -> Readers:
        """Clients that read from every replica for the length of a block."""
        clients = {replica.id: self.api_at(replica.url) for replica in self.swarm.replicas}
        return Readers(clients, self.history, path)

    def owner(self, shard: str) -> str:
        """The replica that owns `cluster/number` now; empty if none does."""
        return self.owners().get(shard, "")

    def owners(self) -> dict[str, str]:
        """Who owns each shard, by etcd's own word."""
        return {tenure.shard: tenure.replica for tenure in self.claims.tenures if tenure.ended_at == float("inf")}

    def settled_owners(self) -> dict[str, str]:
        """Who owns each shard, evenly; nothing while the replicas still hand them to each other."""
        before, owners = self.claims.tenures, self.owners()
        Event().wait(_SETTLING)
        shares = Counter(owners.values())
        counts = [shares[replica.id] for replica in self.swarm.replicas]
        is_shared_out = sum(counts) == SHARDS and max(counts) - min(counts) <= 1
        return owners if is_shared_out and self.claims.tenures == before else {}

    def evidence(
        self,
        expected: Mapping[str, Collection[Outcome]],
        trace: Sequence[Step],
        *,
        held: Collection[tuple[str, int]] = (),
        frozen: Collection[tuple[float, float]] = (),
        has_gaps: bool = False,
    ) -> Evidence:
        """What was witnessed until now.

        Args:
            expected: how each provision may end, by its name.
            trace: what the machines were made to do.
            held: see `Evidence`, as for `frozen` and `has_gaps`.
        """
        found = {item["metadata"]["name"] for item in self.api.get("machines?limit=1000")["items"]}
        tenures = self.claims.tenures
        return Evidence(
            requests=self.history.requests,
            provisions=provisions(self),
            machines=found,
            expected=expected,
            netboot=self.netboot(),
            unowned=self.api.get("swarm")["unowned"],
            audit=self.audit(),
            stamped=self._stamped(tenures),
            unmarked=self._unmarked(has_gaps=has_gaps),
            tenures=tenures,
            trace=trace,
            held=held,
            frozen=frozen,
            has_gaps=has_gaps,
        )

    def verdict(
        self,
        expected: Mapping[str, Collection[Outcome]],
        trace: Sequence[Step],
        *,
        held: Collection[tuple[str, int]] = (),
        frozen: Collection[tuple[float, float]] = (),
        has_gaps: bool = False,
        within: float = 60,
    ) -> Evidence:
        """Check every promise, once all has come to rest; what it was checked on.

        Netboot is closed and shards are claimed a moment after a result is written, and audit logs are written late:
        what is missing gets `within` seconds to appear. What happened twice stays so, however long one waits.
        """
        deadline = time.monotonic() + within
        while True:
            is_over = time.monotonic() > deadline
            try:
                evidence = self.evidence(expected, trace, held=held, frozen=frozen, has_gaps=has_gaps)
                broken = broken_promises(evidence)
            except LookupError:
                # What the log does not explain yet.
                if is_over:
                    raise
            else:
                if not broken:
                    return evidence
                assert not is_over, "\n".join(f"{promise}: {words}" for promise, words in broken)
            Event().wait(0.5)

    def _stamped(self, tenures: Sequence[Tenure]) -> list[Stamped]:
        """What this swarm wrote; Templates tell by their epoch alone whose they are."""
        epochs = {tenure.epoch for tenure in tenures}
        found = read_stamped(self.plane.audit_log)
        return [w for w in found if self._has(w.machine) or (not w.machine and w.epoch in epochs)]

    def _unmarked(self, *, has_gaps: bool) -> list[Unmarked]:
        found = read_unmarked(self.plane.audit_log, has_gaps=has_gaps)
        return [write for write in found if self._has(write.machine)]

    def _has(self, machine: str) -> bool:
        return machine.startswith(f"e{self.number}-")
