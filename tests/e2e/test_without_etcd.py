"""P10 on real parts: etcd frozen, gone, full, locked, replaced, without quorum. Reads go on, writes are refused."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly.sandbox.ports import PortLease
from tests.contract.etcds import CURRENT, Etcds, build
from tests.contract.proxy import Proxy
from tests.e2e.etcdctl import Etcdctl
from tests.e2e.lone_swarm import PATIENCE, LoneSwarm
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

StartEtcds = Callable[..., Etcds]


@pytest.fixture
def etcds(tmp_path: Path, ports: PortLease) -> Iterator[StartEtcds]:
    started: list[Etcds] = []

    def start(**options: Any) -> Etcds:
        directory = tmp_path / f"etcd{len(started)}"
        directory.mkdir()
        started.append(Etcds(directory, ports, build(CURRENT), **options))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for etcd in started:
            etcd.stop()


def _members(swarm: LoneSwarm) -> list[tuple[str, bool]]:
    """Who is in the swarm, and whether it tells how old its lease's last sign of life is."""
    return [(one["id"], "keepaliveAge" in one) for one in swarm.swarm_view()["members"]]


def _unreachable(swarm: LoneSwarm) -> list[str]:
    return [member["endpoint"] for member in swarm.swarm_view()["etcd"]["members"] if not member["reachable"]]


def _refused(swarm: LoneSwarm, name: str, *kinds: str) -> None:
    """Wait until a write is refused for one of these reasons; none succeeds, every answer says when to come again."""

    def refused() -> bool:
        answer = swarm.put(name)
        assert answer.status == 503, answer
        assert int(answer.headers["Retry-After"]) > 0
        return answer.document["type"] in {f"/problems/{kind}" for kind in kinds}

    eventually(f"a write is refused: {' or '.join(kinds)}", refused, within=PATIENCE)


def test_frozen_and_gone_and_back(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    """No restart mends anything: the processes at the end are those of the start."""
    etcd = etcds()
    (member,) = etcd.members
    with LoneSwarm(etcd, tmp_path, ports).running() as swarm:
        pids = swarm.pids
        assert swarm.put("before").status == 201
        swarm.until_well()
        eventually_equal(lambda: _members(swarm), [("a", True), ("b", True)], within=PATIENCE)

        member.signal(signal.SIGSTOP)
        swarm.until_all_find("unreachable")
        swarm.until_all_stale()
        _refused(swarm, "frozen", "store-unavailable")
        read = swarm.list()
        assert [item["metadata"]["name"] for item in read.document["items"]] == ["before"]
        assert float(read.headers["Dragonfly-Stale"]) > 0
        told = swarm.cli("get", "templates", "-o", "name")
        assert (told.returncode, told.stdout.split()) == (0, ["template/before"])
        assert "may be out of date" in told.stderr

        member.signal(signal.SIGCONT)
        swarm.until_well()
        swarm.written("thawed")

        member.kill()
        swarm.until_all_find("unreachable")
        _refused(swarm, "gone", "store-unavailable")
        assert swarm.list().status == 200
        member.start()
        swarm.until_well()
        swarm.written("after")
        names = {item["metadata"]["name"] for item in swarm.api.get("templates")["items"]}
        assert {"before", "thawed", "after"} <= names
        assert swarm.pids == pids


def test_full_and_made_room(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    etcd = etcds(flags={"quota-backend-bytes": str(4 << 20)})
    control = Etcdctl(etcd.urls[0])
    with LoneSwarm(etcd, tmp_path, ports).running() as swarm:
        assert swarm.put("before").status == 201
        control.fill()

        # Nobody has tried to write: the members were asked.
        swarm.until_all_find("full")
        _refused(swarm, "no-room", "store-full")
        assert swarm.list().status == 200
        # Reads are current: a full etcd is followed all the same.
        eventually_equal(lambda: "Dragonfly-Stale" in swarm.list().headers, False, within=PATIENCE)
        eventually("it says so", lambda: swarm.swarm_view()["self"]["state"] == "read-only", within=PATIENCE)
        assert 'dragonfly_store_state{state="full"} 1.0' in swarm.metrics()

        control.make_room()
        swarm.until_well()
        swarm.written("after")


def test_locked_out_and_let_in_again(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    """Tokens that expire all the time are renewed unseen; a password that does not fit any more is told."""
    etcd = etcds(flags={"auth-token-ttl": "1"})
    control = Etcdctl(etcd.urls[0])
    control.enable_authentication("dragonfly", "first")
    password = tmp_path / "password"
    password.write_text("first\n")
    environment = {"DRAGONFLY_ETCD_USERNAME": "dragonfly", "DRAGONFLY_ETCD_PASSWORD_FILE": str(password)}
    with LoneSwarm(etcd, tmp_path, ports, environment=environment).running() as swarm:
        assert swarm.put("before").status == 201
        swarm.until_all_find("ok")

        control.change_password("dragonfly", "second")
        swarm.until_all_find("denied")
        _refused(swarm, "locked-out", "store-denied")
        assert swarm.list().status == 200
        assert "first" not in str(swarm.readyz())

        password.write_text("second\n")
        swarm.until_well()
        swarm.written("after")


def test_another_etcd_is_not_written_to(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    """What the replicas know does not hold there: only a restart, which is a person's decision, goes on."""
    one, other = etcds(), etcds()
    proxy = Proxy(one.ports[0])
    try:
        with LoneSwarm(one, tmp_path, ports, environment={"DRAGONFLY_ETCD_ENDPOINTS": proxy.url}).running() as swarm:
            assert swarm.put("before").status == 201
            proxy.lead_to(other.ports[0])

            swarm.until_all_find("changed")
            _refused(swarm, "elsewhere", "store-changed")
            eventually("reads are old", lambda: "Dragonfly-Stale" in swarm.list().headers, within=PATIENCE)
            assert "start the process again" in swarm.readyz()["checks"]["etcd"]["detail"]
            proxy.lead_to(one.ports[0])
            _refused(swarm, "back", "store-changed")
    finally:
        proxy.close()


def test_a_layout_that_a_newer_version_has_written(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    """Who does not know it gives up what it has, for there may be newer replicas already, and writes nothing more."""
    etcd = etcds()
    control = Etcdctl(etcd.urls[0])
    with LoneSwarm(etcd, tmp_path, ports).running() as swarm:
        swarm.until_well()
        assert swarm.put("before").status == 201
        eventually_equal(lambda: [name for name, _ in _members(swarm)], ["a", "b"], within=PATIENCE)

        control.put("schema", '{"version": 2}')
        eventually("both have left the swarm", lambda: swarm.swarm_view()["members"] == [], within=PATIENCE)
        _refused(swarm, "newer", "schema-unknown")
        assert swarm.list().status == 200
        assert not swarm.readyz()["checks"]["schema"]["ok"]

        control.put("schema", '{"version": 1}')
        assert swarm.put("late").status == 503, "what was in etcd meanwhile is not known: only a restart goes on"


def test_members_that_are_gone(etcds: StartEtcds, tmp_path: Path, ports: PortLease) -> None:
    """One of three does no harm and is told; two of three are no quorum."""
    etcd = etcds(members=3)
    with LoneSwarm(etcd, tmp_path, ports).running() as swarm:
        etcd.members[0].kill()
        swarm.until_all_find("degraded")
        assert etcd.urls[0] in swarm.readyz()["checks"]["etcd"]["detail"]
        swarm.until_well()
        swarm.written("two-of-three")
        eventually_equal(lambda: _unreachable(swarm), [etcd.urls[0]], within=PATIENCE)
        assert f'dragonfly_store_endpoint_up{{endpoint="{etcd.urls[0]}"}} 0.0' in swarm.metrics()

        etcd.members[1].kill()
        swarm.until_all_find("no-quorum")
        _refused(swarm, "one-of-three", "store-no-quorum", "store-unavailable", "outcome-unknown")
        swarm.until_all_stale()
        assert "Dragonfly-Stale" in swarm.list().headers

        etcd.members[1].start()
        swarm.until_well()
        swarm.written("quorum")
        etcd.members[0].start()
        swarm.until_all_find("ok")
