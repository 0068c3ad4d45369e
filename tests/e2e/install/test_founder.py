"""The founder of a cluster leaves it, and no other host is the lesser for it: each can upgrade what it founded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.install.bare_host import BareHost, Moment
from tests.e2e.install.etcd_keys import control_planes
from tests.e2e.install.installed import FLOATING, changed, finished, hosts, images
from tests.e2e.install.joined import Site, placed, ready, told
from tests.e2e.install.provisioned import provisioned
from tests.e2e.waiting import eventually, eventually_equal
from tests.node import replica_image
from tests.node.images import renamed

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(1500)]

NEWER = "registry.example.com/dragonfly:0.2.0"
TINKERBELL = "v0.25.1"
NOWHERE = "gone.example.com/dragonfly:0.3.0"


def test_once_the_founder_has_left_any_other_host_upgrades_what_it_founded(tmp_path: Path) -> None:
    newer = renamed(replica_image.archive(), NEWER, tmp_path / "newer.tar")
    with hosts(tmp_path, 3) as found:
        site = Site(found, tmp_path)
        site.join(site.second, site.first.address)
        site.join(site.third, site.first.address)
        the_founder_leaves_alone_what_it_is_not_told_to_change(site)
        the_founder_leaves(site)
        the_others_upgrade(site, ("upgrade", "--image", NEWER, "--image-archive", str(newer), "--yes", "-o", "json"))
        swarm = {"address": f"http://{FLOATING}:3000", "token": site.token}
        assert provisioned(site.second, swarm, tmp_path).code == 0
        one_that_was_killed_goes_back(site)
        one_that_goes_back_leaves_alone_what_another_has_made_meanwhile(site)
        the_last_one_takes_everything_off(site)


def the_founder_leaves_alone_what_it_is_not_told_to_change(site: Site) -> None:
    """Said with other options, it keeps what another server has made of the cluster, and what it was told before."""
    anothers = whole_record(site.third) | {"tinkerbellVersion": TINKERBELL}
    record(site.third, anothers)

    again = site.first.install()

    finished(again)
    assert changed(again) == {"self-test"}
    assert whole_record(site.second) == anothers
    assert (anothers["floatingIp"], anothers["dhcp"]) == (FLOATING, False)


def the_founder_leaves(site: Site) -> None:
    """Taken off with its data, it takes nothing from the others; what they say again changes nothing of the cluster."""
    first, second, third = site.first, site.second, site.third
    site.register(first, "kept")

    left = first.dragonfly("uninstall", "--yes", "--delete-data", "-o", "json")

    assert left.code == 0, left.err
    assert left.events[-1]["others"] == ["host-2", "host-3"]
    eventually_equal(first.state, site.before["host-1"], within=60)
    eventually_equal(control_planes(second).members, {"host-2", "host-3"}, within=60)
    again = finished(second.dragonfly("install", "--yes", "-o", "json"))
    assert again["address"] == f"http://{FLOATING}:3000"
    assert told(third) == [f"https://{host.address}:2382" for host in (second, third)]
    eventually("the others have all replicas", lambda: len(site.replicas(third)) == 3, within=120)
    # Kubernetes takes the pods of a node that is gone for such after 40 s.
    eventually("it has none", lambda: (now := placed(third)) and first.name not in now.values(), within=180)
    site.knows(third, "kept")
    assert recorded(third) | {"image": ""} == {"host": "host-1", "address": first.address, "image": ""}
    assert boots_from(third) == first.address


def the_others_upgrade(site: Site, upgrading: tuple[str, ...]) -> None:
    """One is brought the image; the other replaces the replicas and takes Tinkerbell over, however often killed."""
    second, third = site.second, site.third
    # A node that is not ready gets no pods, and is not waited for.
    eventually_equal(lambda: ready(second), {"host-2", "host-3"}, within=180)
    prepared = second.dragonfly(*upgrading)
    assert prepared.code == 0, prepared.err
    assert prepared.events[-1] == {"event": "prepared", "image": NEWER, "lacking": ["host-3"]}
    assert NEWER not in images(second)

    killed = killed_in_each_step(third, upgrading)

    assert {"import-newer.tar", "record", "tinkerbell", "manifests", "self-test"} <= killed
    eventually_equal(lambda: images(third), [NEWER] * 3, within=180)
    assert recorded(second) == {"host": "host-3", "address": third.address, "image": NEWER}
    assert boots_from(second) == third.address


def one_that_was_killed_goes_back(site: Site) -> None:
    """To what there was before it began, on a host that had joined."""
    second, third = site.second, site.third
    upgrading = ("upgrade", "--image", NOWHERE, "--yes", "-o", "json")
    assert third.killed_at(lambda moment: moment == Moment("manifests", "carried out"), *upgrading)
    assert recorded(second)["image"] == NOWHERE

    back = third.dragonfly("upgrade", "--ready-within", "20", "--yes")

    assert back.code == 1
    assert "the former version serves again" in back.err
    eventually_equal(lambda: images(second), [NEWER] * 3, within=180)
    assert recorded(second) == {"host": "host-3", "address": third.address, "image": NEWER}
    now = third.dragonfly("status", "--local").out
    assert f"installed; answers at http://{FLOATING}:3000" in now
    assert "has begun" not in now


def one_that_goes_back_leaves_alone_what_another_has_made_meanwhile(site: Site) -> None:
    """What stands is the other's word, which the next upgrade takes up."""
    second, third = site.second, site.third
    anothers = whole_record(second) | {"site": "fra1"}
    upgrading = ("upgrade", "--image", NOWHERE, "--ready-within", "10", "--yes", "-o", "json")

    def goes_on_once_another_has_changed_the_record(moment: Moment) -> bool:
        if moment == Moment("record", "carried out"):
            record(second, anothers)
        return False

    assert third.killed_at(goes_on_once_another_has_changed_the_record, *upgrading, code=1) is None

    said = third.lockstep_log.read_text(encoding="utf-8")
    assert "Another server has changed the installation meanwhile, so nothing was put back" in said
    assert whole_record(second) == anothers
    deployment = second.objects("deployment", "dragonfly")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == NOWHERE
    now = third.dragonfly("upgrade", "--yes")
    assert now.code == 0, now.err
    eventually_equal(lambda: images(second), [NEWER] * 3, within=180)
    assert whole_record(second) == anothers


def the_last_one_takes_everything_off(site: Site) -> None:
    """The one that has carried out the cluster's steps leaves; the last one never has, and nothing of it stays."""
    for host in (site.third, site.second):
        left = host.dragonfly("uninstall", "--yes", "--delete-data")
        assert left.code == 0, left.err
        eventually_equal(host.state, site.before[host.name], within=60)


def killed_in_each_step(host: BareHost, upgrading: tuple[str, ...]) -> set[str]:
    """Kill an upgrade once in each step that changes anything, and go on each time without options; return these."""
    killed: set[str] = set()
    said = upgrading
    while moment := host.killed_at(lambda at: at.name != "begun" and at.step not in killed, *said):
        killed.add(moment.step)
        said = ("upgrade", "--yes", "-o", "json")
        if moment.step == "record":
            # One is enough: the status takes its second.
            now = host.dragonfly("status", "--local").out
            assert "an upgrade has begun and stopped at step record" in now
            assert "Go on with it: dragonfly upgrade." in now
    return killed


def recorded(host: BareHost) -> dict[str, str]:
    """What an upgrade changes in the record of the installation."""
    now = whole_record(host)
    return {key: now[key] for key in ("host", "address", "image")}


def whole_record(host: BareHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.objects("configmap", "dragonfly-installation")["data"]["installation"])
    return found


def record(host: BareHost, what: dict[str, Any]) -> None:
    """Make another record of the cluster's, as another server does."""
    data = json.dumps({"data": {"installation": json.dumps(what, separators=(",", ":"))}})
    done = host.kubectl("patch", "configmap", "dragonfly-installation", "--type", "merge", "--patch", data)
    assert done.code == 0, done.err


def boots_from(host: BareHost) -> str:
    """Which address Tinkerbell gives to machines."""
    chart = host.objects("helmchart", "tinkerbell", "--namespace", "kube-system")
    address: str = yaml.safe_load(chart["spec"]["valuesContent"])["publicIP"]
    return address
