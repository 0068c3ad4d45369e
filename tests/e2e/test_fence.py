"""P4 with real replicas: the fence in the API server is installed, passes on, and is no wall for an etcd begun anew."""

import datetime as dt
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.etcd import Etcd
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import PortLease
from tests.e2e.conftest import StartSite
from tests.e2e.fleet import ENDS, two_actions
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually, eventually_equal

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

QUICK = Behaviour(shortest=0.1, longest=0.2)
TEMPLATE = "two-actions"
EPOCH = "dragonfly.io/epoch"


def test_a_swarm_on_an_etcd_set_up_anew_or_restored_goes_on_with_its_machines(
    control_plane: ControlPlane, start_site: StartSite, ports: PortLease, tmp_path: Path
) -> None:
    """The epochs that the API server compares are lower than before, for every claim of the new swarm."""
    with start_site(1) as site:
        eventually("its fence is told as installed", lambda: policy(site).get("installed"), within=60)
        site.template(TEMPLATE, two_actions())
        [machine] = site.registered()
        provisioned(site, machine)
    before = epoch(control_plane, machine)

    with new_etcd(ports, tmp_path) as etcd, new_swarm(control_plane, ports, tmp_path, etcd) as site:
        site.template(TEMPLATE, two_actions())
        site.api.post("machines", machine.document())
        # Its first write is refused and done again; if etcd were stopped between the two, another might be refused.
        site.settled(machine)
        backup = saved(etcd, tmp_path)
        provisioned(site, machine)

        assert epoch(control_plane, machine) < before
        assert total(site, "dragonfly_cluster_replaced_epochs_total") == 1
        assert total(site, "dragonfly_cluster_refused_writes_total") == 1
        _the_fence_passes_on(site)
        restored(etcd, backup)
        site.api.forget()
        _those_that_run_on_do_nothing(site)
        _started_again(site)
        provisioned(site, machine)


def _the_fence_passes_on(site: Site) -> None:
    """Whoever claims the first shard next keeps it; the killed replica is started again."""
    former = eventually("somebody has it", lambda: first_claim(site), within=60)
    site.swarm.kill(former["owner"], Signals.SIGKILL)
    eventually("the shard has passed on", lambda: first_claim(site).get("epoch", 0) > former["epoch"], within=60)
    eventually("its fence is told again", lambda: policy(site).get("installed"), within=60)
    # One that comes back after the restore has seen nothing of the former history, and has nothing to tell of it.
    for replica in site.swarm.replicas:
        eventually_equal(partial(etcd_state, replica.url), "ok", within=60)


def _those_that_run_on_do_nothing(site: Site) -> None:
    """Their copy of etcd is of another history, and the revisions of this one will be the same before long."""
    for url in [replica.url for replica in site.swarm.replicas]:
        eventually_equal(partial(etcd_state, url), "behind", within=60)
        assert "start this replica again" in etcd_check(url)["detail"]


def _started_again(site: Site) -> None:
    for replica in site.swarm.replicas:
        site.swarm.kill(replica.id, Signals.SIGKILL)
    for replica in site.swarm.replicas:
        eventually_equal(partial(etcd_state, replica.url), "ok", within=60)


@contextmanager
def new_etcd(ports: PortLease, directory: Path) -> Iterator[Etcd]:
    """One in which nothing ever was."""
    authority = Authority(directory / "etcd", "etcd-ca", dt.datetime.now(dt.UTC))
    etcd = Etcd(toolchain.binary("etcd"), directory / "etcd", authority, ports)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.stop()


def saved(etcd: Etcd, directory: Path) -> Path:
    """A copy of all that etcd keeps."""
    [member] = etcd.members
    member.service.stop()
    backup = shutil.copytree(member.data, directory / "backup")
    member.service.start()
    return backup


def restored(etcd: Etcd, backup: Path) -> None:
    [member] = etcd.members
    member.service.stop()
    shutil.rmtree(member.data)
    shutil.copytree(backup, member.data)
    member.service.start()


@contextmanager
def new_swarm(plane: ControlPlane, ports: PortLease, directory: Path, etcd: Etcd) -> Iterator[Site]:
    """Two replicas on the same cluster, with an etcd of their own."""
    environment = {
        "DRAGONFLY_ETCD_ENDPOINTS": ",".join(etcd.endpoints),
        "DRAGONFLY_ETCD_CA_FILE": str(etcd.access.ca),
        "DRAGONFLY_ETCD_CERT_FILE": str(etcd.access.client.certificate),
        "DRAGONFLY_ETCD_KEY_FILE": str(etcd.access.client.key),
    }
    with Site(plane, directory, ports, 2, environment=environment).running() as site:
        yield site


def provisioned(site: Site, machine: Machine) -> None:
    with site.agents([machine], QUICK):
        provision = site.provision(machine, TEMPLATE)
        eventually("it has ended", lambda: site.phase(provision) in ENDS, within=90)
        assert site.phase(provision) == "Succeeded", site.status(provision)
        site.settled(machine)


def policy(site: Site) -> dict[str, Any]:
    [cluster] = site.api.get("swarm")["clusters"]
    told: dict[str, Any] = cluster.get("admissionPolicy", {})
    return told


def first_claim(site: Site) -> dict[str, Any]:
    claims: list[dict[str, Any]] = site.api.get("swarm")["claims"]
    return next((claim for claim in claims if claim["shard"] == 0), {})


def epoch(plane: ControlPlane, machine: Machine) -> int:
    """The epoch under which the machine's Hardware was written last."""
    path = f"/apis/tinkerbell.org/v1alpha1/namespaces/{NAMESPACE}/hardware/{machine.name}"
    answer = plane.apiserver.admin.request("GET", path)
    return int(answer.body["metadata"]["annotations"][EPOCH])


def etcd_state(url: str) -> str:
    """Empty while the replica does not answer."""
    try:
        return str(etcd_check(url)["state"])
    except OSError:
        return ""


def etcd_check(url: str) -> Any:
    """What a replica says of etcd in /readyz, ready or not."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return json.load(answer)["checks"]["etcd"]
    except urllib.error.HTTPError as error:
        return json.load(error)["checks"]["etcd"]


def total(site: Site, metric: str) -> int:
    """The sum of a counter over all replicas."""
    found = 0.0
    for replica in site.swarm.replicas:
        with urllib.request.urlopen(f"{replica.url}/metrics") as answer:
            lines = re.findall(rf"^{metric}{{.*}} (\S+)$", answer.read().decode(), re.MULTILINE)
        found += sum(float(value) for value in lines)
    return int(found)
