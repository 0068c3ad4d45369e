"""What replicas are told of etcd: by a host that joins, never anything but what the cluster's swarm uses already."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dragonfly.install import certificates, k3s
from dragonfly.install.cluster import Cluster
from dragonfly.install.execution import StepFailed
from dragonfly.install.host import Host
from dragonfly.install.options import JoinedMode
from dragonfly.install.own_etcd import OwnEtcd
from dragonfly.install.secrets_made import Secrets
from dragonfly.install.steps import GiveEtcd
from dragonfly.kube.resources import DAEMON_SET, DEPLOYMENT, SECRET, Object, Ref, ref_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ACCESS = Ref(SECRET, "dragonfly", "dragonfly-etcd")
EXTERNAL = {
    "endpoints": "https://10.9.0.1:2379",
    "ca": "ca",
    "username": "dragonfly",
    "password": "pw",
    "prefix": "/f/",
}
OWN = {"endpoints": "https://10.0.0.1:12379", "ca": "ca", "cert": "cert", "key": "key"}


class ValuesOfACluster(Cluster):
    """A cluster in memory, of as many hosts as have addresses."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(Path("/nowhere"))
        self.addresses = addresses
        self.objects: dict[Ref, Object] = {}
        self.restarts: list[str] = []
        self.put(Ref(SECRET, "dragonfly", "dragonfly"), {"replica-token": "t", "secret-key": "k", "admin-token": "a"})
        self.objects[Ref(DEPLOYMENT, "dragonfly", "dragonfly")] = {"spec": {"template": {"metadata": {}}}}

    def put(self, ref: Ref, data: Mapping[str, str]) -> None:
        self.objects[ref] = {"data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}}

    def told(self) -> dict[str, str]:
        return {key: base64.b64decode(text).decode() for key, text in self.objects[ACCESS]["data"].items()}

    def get(self, ref: Ref) -> Object | None:
        return self.objects.get(ref)

    def apply(self, objects: Iterable[Object], say: Callable[[str], None]) -> None:
        self.objects |= {ref_of(obj): obj for obj in objects}

    def has(self, objects: Iterable[Object]) -> bool:
        return all(self.objects.get(ref_of(obj)) == obj for obj in objects)

    def patch(self, ref: Ref, body: Mapping[str, Any]) -> bool:
        (annotation,) = body["spec"]["template"]["metadata"]["annotations"].values()
        if not self.restarts or self.restarts[-1] != annotation:
            self.restarts.append(annotation)
        self.objects[ref] = dict(body)
        return True

    def node_count(self) -> int:
        return len(self.addresses)

    def etcd_addresses(self) -> tuple[str, ...]:
        return self.addresses

    def labelled_addresses(self, label: str, value: str) -> tuple[str, ...]:
        return self.addresses[:1]


@pytest.fixture
def cluster() -> ValuesOfACluster:
    return ValuesOfACluster("10.0.0.1", "10.0.0.2")


@pytest.fixture
def secrets(cluster: ValuesOfACluster, tmp_path: Path) -> Secrets:
    host, authority = Host(tmp_path), certificates.authority("etcd", NOW)
    host.write(str(k3s.ETCD_CA), authority.certificate, 0o600)
    host.write(str(k3s.ETCD_CA_KEY), authority.key, 0o600)
    return Secrets(host, cluster, OwnEtcd(host, cluster, lambda: NOW), lambda: NOW)


def with_own_etcd(cluster: ValuesOfACluster) -> None:
    cluster.objects[Ref(DAEMON_SET, "dragonfly-etcd", "etcd")] = {}
    cluster.put(Ref(SECRET, "dragonfly-etcd", "etcd"), {"ca": "ca", "cert": "cert", "key": "key"})
    cluster.put(ACCESS, OWN)


def joining(mode: JoinedMode = "") -> GiveEtcd:
    return GiveEtcd(mode, "dragonfly", "tinkerbell", "10.0.0.2", joins=True)


def quiet(text: str) -> None:
    pass


def test_who_joins_a_swarm_on_somebody_elses_etcd_leaves_all_that_is_told(
    secrets: Secrets, cluster: ValuesOfACluster
) -> None:
    cluster.put(ACCESS, EXTERNAL)

    secrets.give(joining(), quiet)

    assert cluster.told() == EXTERNAL


def test_who_joins_a_swarm_with_an_etcd_of_its_own_leaves_it_on_that(
    secrets: Secrets, cluster: ValuesOfACluster
) -> None:
    with_own_etcd(cluster)

    secrets.give(joining(), quiet)

    assert cluster.told() == OWN


def test_who_joins_a_swarm_on_the_control_planes_etcd_names_its_member_too_and_keeps_what_others_put_there(
    secrets: Secrets, cluster: ValuesOfACluster
) -> None:
    cluster.put(ACCESS, {"endpoints": "https://10.0.0.1:2382", "prefix": "/fra/"})

    secrets.give(joining(), quiet)

    assert cluster.told()["endpoints"] == "https://10.0.0.1:2382,https://10.0.0.2:2382"
    assert cluster.told()["prefix"] == "/fra/"
    assert secrets.has_given(joining())


@pytest.mark.parametrize("asked", ["shared", "dedicated"])
def test_another_etcd_than_the_swarms_is_refused_and_nothing_is_told(
    secrets: Secrets, cluster: ValuesOfACluster, asked: JoinedMode
) -> None:
    cluster.put(ACCESS, EXTERNAL)

    with pytest.raises(StepFailed, match=f"uses etcd 'external', and --etcd {asked} was said") as refused:
        secrets.give(joining(asked), quiet)

    assert "Join without --etcd" in refused.value.remedy
    assert cluster.told() == EXTERNAL
    assert not cluster.restarts


@pytest.mark.parametrize("asked", ["", "external"])
def test_a_cluster_that_does_not_say_yet_is_told_nothing(
    secrets: Secrets, cluster: ValuesOfACluster, asked: JoinedMode
) -> None:
    """Nor where somebody else's is: who joins doesn't know."""
    with pytest.raises(StepFailed, match="does not say yet"):
        secrets.give(joining(asked), quiet)

    assert ACCESS not in cluster.objects


def test_replicas_start_again_with_each_host_that_comes_also_where_etcd_stays(
    secrets: Secrets, cluster: ValuesOfACluster
) -> None:
    cluster.put(ACCESS, EXTERNAL)
    secrets.give(joining(), quiet)
    secrets.give(joining(), quiet)
    assert len(cluster.restarts) == 1
    assert secrets.has_given(joining())

    cluster.addresses = (*cluster.addresses, "10.0.0.3")

    assert not secrets.has_given(joining())
    secrets.give(joining(), quiet)
    assert len(cluster.restarts) == 2
