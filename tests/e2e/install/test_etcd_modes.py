"""`--etcd dedicated` and `--etcd external`: the swarm is there, the control plane's etcd has nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.pki import KeyPair
from dragonfly.sandbox.probes import http_ok
from tests.e2e.etcdctl import Etcdctl
from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.etcd_keys import control_planes, replicas
from tests.e2e.install.installed import ALL, changed, finished, hosts, members
from tests.e2e.install.issuer import Issuer
from tests.e2e.install.provisioned import provisioned
from tests.e2e.waiting import eventually_equal

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(600)]


def test_on_an_etcd_of_its_own_a_machine_is_provisioned_and_nothing_is_left(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (host,):
        before = host.state()

        installed = finished(host.install(*ALL, "--etcd", "dedicated"))

        assert host.secret("dragonfly-etcd", "endpoints") == f"https://{host.address}:12379"
        assert members(host, installed["address"], installed["token"])
        assert provisioned(host, installed, tmp_path).code == 0
        assert replicas(host, tmp_path).amount()
        assert control_planes(host).amount() == 0
        again = host.dragonfly("install", "--yes", "-o", "json")
        assert changed(again) == {"self-test"}, again
        kept = host.dragonfly("uninstall", "--yes", "-o", "json")
        assert kept.events[-1]["kept"] == [
            "delete Secret dragonfly",
            "remove /var/lib/dragonfly-etcd",
            "remove /var/lib/rancher",
        ]
        assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
        eventually_equal(host.state, before, within=60)


def test_on_somebody_elses_etcd_a_machine_is_provisioned_with_a_confined_user(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (host, other):
        flags = foreign_etcd(other, tmp_path)
        before = host.state()

        installed = finished(host.install(*ALL, "--etcd", "external", *flags))

        assert members(host, installed["address"], installed["token"])
        assert provisioned(host, installed, tmp_path).code == 0
        assert control_planes(host).amount() == 0
        assert host.dragonfly("uninstall", "--yes", "--delete-data").code == 0
        eventually_equal(host.state, before, within=60)


def foreign_etcd(other: BareHost, directory: Path) -> tuple[str, ...]:
    """Start an etcd on another host, with TLS and users; return the installer's options for it."""
    issuer = Issuer(directory / "ca.crt", directory / "ca.key")
    pair = issuer.issue(KeyPair(directory / "server.crt", directory / "server.key"), "etcd", addresses=(other.address,))
    public, admin = f"https://{other.address}:2379", f"http://{other.management}:2379"
    settings = {
        "name": "other",
        "data-dir": directory / "other-etcd",
        "listen-client-urls": f"{public},{admin}",
        "advertise-client-urls": public,
        "listen-peer-urls": f"http://{other.address}:2380",
        "cert-file": pair.certificate,
        "key-file": pair.key,
        "watch-progress-notify-interval": "2s",
        "unsafe-no-fsync": "true",
    }
    command = (str(toolchain.binary("etcd")), *(f"--{flag}={value}" for flag, value in settings.items()))
    other.service("etcd", *command, ready=lambda: http_ok(f"{admin}/health"), within=60).start()
    Etcdctl(admin).enable_authentication("dragonfly", "a password")
    (directory / "password").write_text("a password\n")
    return (
        *("--etcd-endpoints", public, "--etcd-ca-file", str(issuer.certificate)),
        *("--etcd-username", "dragonfly", "--etcd-password-file", str(directory / "password")),
    )
