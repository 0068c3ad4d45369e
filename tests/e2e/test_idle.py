"""A swarm of three with 1,000 machines and nothing to do: it keeps its leases alive, and writes nothing at all.

Its etcd is its own, so etcd's own metrics are the witness; what it asked of the API server is in that one's audit log.
"""

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.harness import own_etcd, swarm_on
from benchmarks.idle import RENEWALS, REVISION, WRITES, Idle, idle
from dragonfly.sandbox.controlplane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

MACHINES = 1_000
LEASE = "12"
"""Seconds: other processes may keep a replica waiting for longer than the usual 3, and a lease that was lost is granted
anew, which is a write."""
WRITING_CALLS = ("Put", "DeleteRange", "Txn", "LeaseGrant", "LeaseRevoke")


@pytest.fixture(scope="module")
def rest(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idle]:
    directory = tmp_path_factory.mktemp("idle")
    own = {replica: {"DRAGONFLY_LEASE_TTL": LEASE} for replica in "abc"}
    with own_etcd(directory / "etcd") as etcd, swarm_on(control_plane, directory, etcd=etcd, own=own) as running:
        yield asyncio.run(idle(running, etcd, machines=MACHINES, seconds=10))
    # The tests that come after list this namespace again and again.
    gone = control_plane.apiserver.admin.request(
        "DELETE", "/apis/tinkerbell.org/v1alpha1/namespaces/tinkerbell/hardware"
    )
    assert gone.status == 200, gone.body


def test_what_is_written_is_counted(rest: Idle) -> None:
    assert rest.before["etcd_mvcc_put_total"] >= MACHINES
    assert rest.before[REVISION] >= MACHINES
    assert rest.before["Txn"] >= MACHINES


def test_leases_are_kept_alive(rest: Idle) -> None:
    assert rest.etcd[RENEWALS] >= 3


def test_nothing_is_written_to_etcd(rest: Idle) -> None:
    watched = (*WRITES, REVISION, *WRITING_CALLS)
    assert {name: rest.etcd[name] for name in watched} == dict.fromkeys(watched, 0)


def test_of_the_api_server_nothing_is_asked_but_whether_it_is_there(rest: Idle) -> None:
    assert {what for what in rest.asked if not what.startswith("watch ")} == {"get /version"}
