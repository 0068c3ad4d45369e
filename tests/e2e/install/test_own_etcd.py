"""`--etcd dedicated` on three hosts: each has a member of the swarm's own etcd, and the swarm outlives its founder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.install.bare_host import BareHost, Moment
from tests.e2e.install.etcd_keys import control_planes, replicas
from tests.e2e.install.installed import FLOATING, hosts
from tests.e2e.install.joined import Site, states, told
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(1200)]

_DATA: Final = "/var/lib/dragonfly-etcd"
_K3S_DATA: Final = "/var/lib/rancher"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hosts(tmp_path, 3) as found:
        yield Site(found, tmp_path, "--etcd", "dedicated")


def killed_when_added(site: Site, host: BareHost) -> None:
    """kill -9 once its member is there without a vote, and has never started."""
    joining = host.installing("--join", FLOATING, "--token-file", str(site.token_file))
    seen = replicas(site.first, site.directory)

    def is_added(moment: Moment) -> bool:
        return moment.step == "own-etcd" and moment.name.startswith("told") and "" in seen.members()

    assert host.killed_at(is_added, *joining)
    eventually_equal(seen.members, {"host-1", "host-2", ""}, within=120)


def machine(name: str, number: int) -> tuple[str, ...]:
    """What curl is told to have one more."""
    interfaces = [{"mac": f"02:00:00:00:00:{number:02x}", "dhcp": True}]
    # Said again after an answer that was lost it is the same request.
    return (
        "-H",
        f"Idempotency-Key: {name}",
        "--data",
        json.dumps({"metadata": {"name": name}, "spec": {"interfaces": interfaces}}),
    )


def test_each_host_has_a_member_one_leaves_and_comes_back_and_all_goes_on_without_the_founder(
    site: Site, tmp_path: Path
) -> None:
    first, second, third = site.first, site.second, site.third
    names = {host.name for host in (first, second, third)}
    site.join(second, first.address)
    killed_when_added(site, third)
    site.join(third, FLOATING)
    everywhere = [f"https://{host.address}:12379" for host in (first, second, third)]
    assert told(third) == everywhere
    eventually_equal(replicas(third, tmp_path).members, names, within=120)
    # What only waits has something to wait for while a replica or a member has a moment without an answer.
    eventually_equal(lambda: states(second), {"unchanged"}, within=300)
    site.register(first, "kept")

    left = third.dragonfly("uninstall", "--yes", "-o", "json")

    assert left.code == 0, left.err
    assert left.events[-1]["etcdMembers"] == 2
    eventually_equal(replicas(second, tmp_path).members, names - {third.name}, within=120)
    assert told(second) == everywhere[:2]

    # As k3s itself does with what a server has left that was taken out.
    third.run("rm", "-r", _K3S_DATA)
    again = third.install("--join", first.address, "--token-file", str(site.token_file))
    assert again.code == 0, again.err
    assert again.events[-1]["etcd"] == "The swarm's own etcd has 3 members and tolerates the loss of 1."
    assert f"{_DATA}/former-1" in again.out
    assert third.run("ls", _DATA).out.split() == ["data", "former-1"]
    assert told(first) == everywhere

    first.fail()

    eventually("it is read without the founder", lambda: site.ask(second, "machines/kept"), within=180)
    eventually("and written", lambda: site.ask(third, "machines", *machine("new", 2)), within=180)
    found = eventually("and read elsewhere", lambda: site.ask(second, "machines/new"), within=180)
    assert found["metadata"]["name"] == "new"
    eventually_equal(replicas(third, tmp_path).members, names, within=60)
    eventually_equal(control_planes(second).amount, 0, within=60)
