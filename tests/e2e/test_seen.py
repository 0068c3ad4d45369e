"""P6 on real parts: a cluster that stands still and shards that nobody can take show everywhere.

That it takes no longer than 10 s is shown on virtual time (`test_reach`, `test_alerts`) and measured by
`benchmarks.sites`.
"""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox.controlplane import ControlPlane
from dragonfly.sandbox.ports import PortLease
from tests.e2e.prometheus import Prometheus
from tests.e2e.site import Site
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PATIENCE: Final = 60.0


def test_a_cluster_that_stands_still_and_a_shard_that_nobody_can_take(tmp_path: Path, ports: PortLease) -> None:
    with ControlPlane() as plane, Site(plane, tmp_path, ports, 2).running() as site, _prometheus(site, ports) as alerts:
        a, b = (Eye(site, replica.url) for replica in site.swarm.replicas)
        eventually("every shard is driven", lambda: a.swarm()["unowned"] == [], within=_PATIENCE)
        eventually("the command line says that all is well", lambda: a.cli().returncode == 0, within=_PATIENCE, every=1)
        assert all("since" in claim for claim in a.swarm()["claims"])
        eventually("no alert is left", lambda: _judged(alerts) and not alerts.firing(), within=_PATIENCE)

        plane.apiserver.service.signal(signal.SIGSTOP)
        cluster = eventually("the cluster is told as out of reach", a.unreached, within=_PATIENCE)
        assert cluster["since"]
        assert cluster["reason"]
        told = a.cli()
        assert (told.returncode, "Cluster local is not reachable since" in told.stdout) == (1, True), told.stdout
        assert a.gauge("dragonfly_cluster_unreachable_seconds") > 0
        assert a.gauge("dragonfly_cluster_reachable") == 0
        _alerted(alerts, "DragonflyClusterUnreachable")

        # Who noticed first gave its shards to the other; a cluster that nobody reaches stays with its last owner.
        owner = eventually("somebody has a shard", a.an_owner, within=_PATIENCE)
        survivor = b if owner == "a" else a
        site.swarm.kill(owner, signal.SIGKILL)
        shards = eventually("shards are told as without owner", lambda: survivor.swarm()["unowned"], within=_PATIENCE)
        assert {shard["reason"] for shard in shards} == {"no live replica reaches cluster local"}
        assert all(shard["since"] for shard in shards), shards
        told = survivor.cli()
        assert (told.returncode, "Without owner" in told.stdout) == (1, True), told.stdout
        assert survivor.gauge("dragonfly_swarm_unowned_shards") >= len(shards)
        assert survivor.gauge("dragonfly_swarm_unowned_seconds") > 0
        _alerted(alerts, "DragonflyShardWithoutOwner")

        plane.apiserver.service.signal(signal.SIGCONT)
        eventually("every shard is driven again", lambda: survivor.swarm()["unowned"] == [], within=_PATIENCE)
        eventually("all is well again", lambda: survivor.cli().returncode == 0, within=_PATIENCE, every=1)


@contextmanager
def _prometheus(site: Site, ports: PortLease) -> Iterator[Prometheus]:
    targets = [replica.url.removeprefix("http://") for replica in site.swarm.replicas]
    prometheus = Prometheus(site._directory / "prometheus", ports.take(), targets)
    try:
        prometheus.service.start()
        yield prometheus
    finally:
        prometheus.service.stop()


def _judged(prometheus: Prometheus) -> bool:
    """Whether every alert was evaluated, without an error."""
    return set(prometheus.healthy_rules().values()) == {"ok"}


def _alerted(prometheus: Prometheus, name: str) -> None:
    """Wait until the alert fires."""
    eventually(f"{name} fires", lambda: name in prometheus.firing(), within=_PATIENCE)


class Eye:
    """One replica, as people and Prometheus look at it."""

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._url = url

    def swarm(self) -> dict[str, Any]:
        with self._site.api_at(self._url) as api:
            view: dict[str, Any] = api.get("swarm")
        return view

    def an_owner(self) -> str:
        """A replica that has a shard; empty if none has."""
        return next((str(claim["owner"]) for claim in self.swarm()["claims"]), "")

    def unreached(self) -> dict[str, Any]:
        """The cluster as it is told, if nobody reaches it."""
        (cluster,) = self.swarm()["clusters"]
        return {} if cluster["reachable"] else cluster

    def gauge(self, name: str) -> float:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith((f"{name} ", f"{name}{{"))))

    def cli(self) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DRAGONFLY_SERVER": self._url, "DRAGONFLY_TOKEN": self._site._token}
        command = [sys.executable, "-m", "dragonfly", "swarm"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
