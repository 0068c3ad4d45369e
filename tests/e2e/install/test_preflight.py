"""What the installer finds out before it changes anything, and what it asks the neighbours for that."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.installed import ALL, FLOATING, hosts
from tests.e2e.waiting import eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(300)]

ANOTHER = "192.0.2.101"


def test_an_address_that_a_neighbour_has_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (host, neighbour):
        before = host.files()

        refused = host.install(*ALL, "--floating-ip", neighbour.address)

        assert refused.code == 4
        assert f"address {neighbour.address}: Take an address that is nobody's." in refused.err
        assert host.files() == before


def test_a_dry_run_sends_the_neighbours_nothing_unless_it_is_asked_to(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (host, neighbour):
        before, heard = host.files(), tmp_path / "heard"
        ear = neighbour.service(
            "ear", sys.executable, "-m", "tests.e2e.install.eavesdropper", str(heard), ready=heard.exists, within=60
        )
        ear.start()

        quiet = host.install("--dry-run", "--floating-ip", FLOATING)
        asking = host.install("--dry-run", "--probe", "--floating-ip", ANOTHER, *ALL)

        assert (quiet.code, asking.code) == (0, 0)
        # Frames come in the order in which they are sent: had the first run asked, it would stand before.
        eventually_equal(lambda: set(heard.read_text().splitlines()), {f"arp {ANOTHER}"}, within=60)
        checks = {check["name"]: check["found"] for check in json.loads(quiet.out)["checks"]}
        assert checks["DHCP"] == "the wire was not asked: a dry run sends nothing there"
        assert host.files() == before


def test_what_a_host_lacks_is_told_with_its_remedy_and_nothing_is_changed(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (host, neighbour):
        lacking = tmp_path / "cgroup"
        lacking.mkdir()
        (lacking / "cgroup.controllers").write_text("cpuset cpu io pids\n")
        (host.tree / "etc/kubernetes/manifests").mkdir(parents=True)
        small = host.run("sh", "-c", "mkdir /var/lib/rancher && mount -t tmpfs -o size=1g none /var/lib/rancher")
        assert small.code == 0, small.err
        taken = host.service(
            "taken", sys.executable, "-m", "http.server", "6443", ready=lambda: listens(host, 6443), within=60
        )
        taken.start()
        dhcp_server(neighbour, tmp_path)
        before = host.files()

        one = str(min(os.sched_getaffinity(0)))
        seen = f'mount --bind {lacking} /sys/fs/cgroup && exec taskset -c {one} {sys.executable} -m dragonfly "$@"'
        refused = host.run("unshare", "--mount", "sh", "-c", seen, "sh", *host.installing())

        assert refused.code == 4
        bad = {event["name"]: event for event in refused.events if event.get("level") == "error"}
        remedies = {
            "CPUs": "Give this host 2 CPUs or more.",
            "disk": "Free 10 GiB or more where /var/lib/rancher is or will be.",
            "cgroups": "Turn them on at boot",
            "kubernetes": "Take another host",
            "ports": "Stop python",
            "DHCP": "Turn that one off",
        }
        assert bad.keys() == remedies.keys()
        for name, remedy in remedies.items():
            assert remedy in bad[name]["remedy"]
            assert f"{name}: {bad[name]['remedy']}" in refused.err
        assert f"{neighbour.address} answers on the wire" in bad["DHCP"]["found"]
        assert host.files() == before


def listens(host: BareHost, port: int) -> bool:
    return bool(host.run("ss", "-Hlnt", f"sport = :{port}").out)


def dhcp_server(host: BareHost, directory: Path) -> None:
    """Start one there; it ends with the host."""
    program = shutil.which("dnsmasq", path="/usr/sbin:/sbin") or shutil.which("dnsmasq")
    assert program, "scripts/ensure-test-programs installs dnsmasq-base"
    flags = (
        *("--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=cluster"),
        *("--dhcp-range=192.0.2.150,192.0.2.160,1h", f"--dhcp-leasefile={directory / 'leases'}", "--log-facility=-"),
        f"--pid-file={directory / 'pid'}",
    )
    host.service("dnsmasq", program, *flags, ready=(directory / "pid").exists, within=60).start()
