"""Each prerequisite that a host lacks is told, with its remedy; a host that has all of them has no error."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.install.host_facts import Airgap, HostFacts, Listener
from dragonfly.install.options import ExternalEtcd, Options
from dragonfly.install.ports import TCP_PORTS, UDP_PORTS, in_words, reached_by_others, reached_by_servers
from dragonfly.install.preflight import Check, errors, preflight

GOOD = HostFacts(address="10.0.0.1", network="10.0.0.0/24", interface="eth0")
WITH_IMAGE = Options(image="registry.example.com/dragonfly:0.1.0")


def checks(facts: HostFacts = GOOD, options: Options = WITH_IMAGE, **other: Any) -> tuple[Check, ...]:
    return preflight(options, msgspec.structs.replace(facts, **other))


def of_firewalls(options: Options = WITH_IMAGE, **other: Any) -> list[Check]:
    return [check for check in checks(options=options, **other) if check.name == "firewall"]


def test_a_good_host_has_no_error() -> None:
    assert errors(checks()) == ()


@pytest.mark.parametrize(
    ("lacking", "name", "remedy"),
    [
        ({"system": "Darwin"}, "system", "Install on Linux"),
        ({"architecture": "riscv64"}, "system", "x86_64 or aarch64"),
        ({"is_root": False}, "user", "sudo dragonfly install"),
        ({"has_systemd": False}, "systemd", "docs/kubernetes.md"),
        ({"cpus": 1}, "CPUs", "2 CPUs or more"),
        ({"memory": 2 << 30}, "memory", "4 GiB or more"),
        ({"free_disk": 5 << 30}, "disk", "Free 10 GiB"),
        ({"cgroup_controllers": ("cpu", "cpuset", "pids")}, "cgroups", "cgroup_enable=memory"),
        ({"k3s": "k3s (/usr/local/bin/k3s)"}, "kubernetes", "Take another host"),
        ({"kubernetes": "a kubelet (/var/lib/kubelet/config.yaml)"}, "kubernetes", "Take another host"),
        ({"listeners": (Listener("tcp", 6443, "haproxy (pid 9)"),)}, "ports", "Stop haproxy"),
        ({"listeners": (Listener("udp", 67, "dnsmasq (pid 9)"),)}, "ports", "--no-dhcp"),
        ({"listeners": (Listener("udp", 8472),)}, "ports", "Stop what listens there"),
        ({"address": ""}, "network", "default route"),
        ({"dhcp_servers": ("10.0.0.254",)}, "DHCP", "Turn that one off"),
        ({"has_internet": False}, "sources", "--airgap DIR"),
        ({"missing_files": ("/token",)}, "files", "Name a file that is there"),
    ],
)
def test_what_is_lacking_is_told_with_its_remedy(lacking: dict[str, Any], name: str, remedy: str) -> None:
    (found,) = errors(checks(**lacking))

    assert found.name == name
    assert remedy in found.remedy


def test_a_token_and_an_image_may_be_deleted_once_the_host_has_them() -> None:
    before = Options(join="10.0.0.2", token_file="/token", image_archive="/image.tar")
    gone: dict[str, Any] = {"missing_files": ("/token", "/image.tar"), "before": before}

    assert errors(checks(options=before, is_started=True, is_installed=True, **gone)) == ()
    assert len(errors(checks(options=before, **gone))) == 2
    assert len(errors(checks(options=before, is_started=True, missing_files=("/newer.tar",), before=before))) == 1


def test_the_documentation_names_every_port() -> None:
    text = (Path(__file__).parents[3] / "docs" / "install.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"Ports: TCP ([\d, \n]+);\s*UDP ([\d, \n]+);", text)

    assert [sorted(map(int, ports.split(","))) for ports in told] == [sorted(TCP_PORTS), sorted(UDP_PORTS)]


def test_the_documentation_says_who_reaches_which_port() -> None:
    text = (Path(__file__).parents[3] / "docs" / "install.md").read_text(encoding="utf-8")
    options = Options(etcd="dedicated")

    for who, ports in (
        ("the other servers", reached_by_servers(options)),
        ("machines and people", reached_by_others(options)),
    ):
        assert f"| {who} | {in_words(ports)} |" in text


def test_the_holder_of_a_port_is_named() -> None:
    (found,) = errors(checks(listeners=(Listener("tcp", 2379, "etcd (pid 7)"), Listener("tcp", 22, "sshd (pid 1)"))))

    assert found.found == "tcp 2379, which etcd needs, is taken by etcd (pid 7)"


@pytest.mark.parametrize(
    ("firewall", "commands"),
    [
        (
            "firewalld",
            (
                "firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 --add-source=10.43.0.0/16",
                "firewall-cmd --permanent --add-port=2222/tcp --add-port=3000/tcp --add-port=6443/tcp",
                "--add-port=7080/tcp --add-port=7173/tcp --add-port=42113/tcp --add-port=67/udp --add-port=69/udp",
                "--add-port=514/udp && firewall-cmd --reload",
                "firewall-cmd --permanent --zone=trusted --add-source=ADDRESS && firewall-cmd --reload",
                "systemctl disable --now firewalld",
            ),
        ),
        (
            "ufw",
            (
                "ufw allow from 10.42.0.0/16",
                "ufw allow from 10.43.0.0/16",
                "ufw allow 2222,3000,6443,7080,7173,42113/tcp",
                "ufw allow 67,69,514/udp",
                "ufw allow from ADDRESS",
                "ufw disable",
            ),
        ),
    ],
)
@pytest.mark.parametrize("is_started", [False, True])
def test_a_firewall_of_the_host_is_told_with_the_commands_that_open_it(
    firewall: str, commands: tuple[str, ...], is_started: bool
) -> None:
    """Its rules may let everything through, so it stops nobody; they can change after an installation, too."""
    (found,) = of_firewalls(firewalls=(firewall,), is_installed=is_started, is_started=is_started)

    assert found.level == "warning"
    assert found.found.endswith(
        "from pods and services 10.42.0.0/16 and 10.43.0.0/16; from the other servers TCP 2379, 2380, 2382, 10250; "
        "UDP 8472; from machines and people TCP 2222, 3000, 6443, 7080, 7173, 42113; UDP 67, 69, 514"
    )
    for command in commands:
        assert command in found.remedy


def test_a_firewall_is_asked_for_no_more_than_the_options_need() -> None:
    for options, own in (
        (Options(etcd="dedicated"), True),
        (Options(join="10.0.0.2", token_file="/token", etcd=""), True),
        (Options(join="10.0.0.2", token_file="/token", etcd="shared"), False),
        (WITH_IMAGE, False),
    ):
        (found,) = of_firewalls(options, firewalls=("ufw",))
        assert ("10250, 12379, 12380; UDP 8472" in found.found) is own
    (found,) = of_firewalls(msgspec.structs.replace(WITH_IMAGE, dhcp=False), firewalls=("ufw",))
    assert "ufw allow 69,514/udp" in found.remedy


def test_each_firewall_that_is_on_is_told_and_none_is_well() -> None:
    both = of_firewalls(firewalls=("firewalld", "ufw"))

    assert [one.found.partition(",")[0] for one in both] == ["firewalld runs", "ufw is enabled"]
    assert [(one.level, one.remedy) for one in of_firewalls()] == [("ok", "")]


def test_a_dhcp_server_of_the_site_is_none_of_our_business_without_ours() -> None:
    options = msgspec.structs.replace(WITH_IMAGE, dhcp=False)
    facts: dict[str, Any] = {"dhcp_servers": ("10.0.0.254",), "listeners": (Listener("udp", 67, "dnsmasq (pid 9)"),)}

    assert errors(checks(options=options, **facts)) == ()


@pytest.mark.parametrize(
    ("address", "taken", "level"),
    [
        ("10.0.0.50", (), "ok"),
        ("10.0.0.50", None, "warning"),
        ("10.0.0.50", ("10.0.0.50",), "error"),
        ("10.0.0.1", (), "error"),
        ("10.9.0.1", (), "error"),
    ],
)
def test_a_floating_address_belongs_to_the_network_and_to_nobody(
    address: str, taken: tuple[str, ...] | None, level: str
) -> None:
    options = msgspec.structs.replace(WITH_IMAGE, floating_ip=address)

    (found,) = [check for check in checks(options=options, taken=taken) if check.name == f"address {address}"]

    assert found.level == level
    assert bool(found.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("told", "level"), [((), "warning"), (("10.0.0.50",), "ok")], ids=["new", "that this host was told of before"]
)
def test_an_address_that_is_new_to_an_installation_and_somebodys_is_told(told: tuple[str, ...], level: str) -> None:
    """It may be at another server of the cluster; the step that claims it looks there."""
    options = msgspec.structs.replace(WITH_IMAGE, floating_ip="10.0.0.50")
    before = msgspec.structs.replace(WITH_IMAGE, floating_ip="".join(told))

    found = checks(options=options, taken=("10.0.0.50",), is_installed=True, is_started=True, before=before)

    assert [one.level for one in found if one.name == "address 10.0.0.50"] == [level]


@pytest.mark.parametrize(
    ("facts", "name", "level"),
    [
        ({"free_disk": 8 << 30}, "disk", "warning"),
        ({"free_disk": 1 << 30}, "disk", "error"),
        ({"cpus": 1}, "CPUs", "warning"),
        ({"memory": 2 << 30}, "memory", "warning"),
    ],
)
def test_a_host_that_has_become_smaller_or_fuller_can_be_gone_on_with_and_upgraded(
    facts: dict[str, Any], name: str, level: str
) -> None:
    (found,) = (one for one in checks(is_installed=True, is_started=True, **facts) if one.name == name)

    assert found.level == level
    assert found.remedy


def test_what_our_own_installation_does_is_no_trouble_for_it() -> None:
    """The ports are k3s's by now, and the address the load balancer's."""
    options = msgspec.structs.replace(WITH_IMAGE, floating_ip="10.0.0.50")
    ours: dict[str, Any] = {
        "is_installed": True,
        "is_started": True,
        "k3s": "k3s (/usr/local/bin/k3s)",
        "listeners": (Listener("tcp", 6443, "k3s (pid 5)"),),
        "taken": ("10.0.0.50",),
        "dhcp_servers": ("10.0.0.7",),
        "has_internet": False,
    }

    assert errors(checks(options=options, **ours)) == ()


def test_an_installation_that_has_not_started_k3s_needs_free_ports_still() -> None:
    begun: dict[str, Any] = {"is_installed": True, "k3s": "k3s (/usr/local/bin/k3s)"}

    (found,) = errors(checks(listeners=(Listener("tcp", 6443, "haproxy (pid 9)"),), **begun))

    assert found.name == "ports"


def test_joining_needs_a_server_that_answers_and_clocks_that_agree() -> None:
    options = Options(join="10.0.0.2", token_file="/token", image="x/y:1")

    assert errors(checks(options=options)) == ()
    (server,) = errors(checks(options=options, join_problem="does not answer: refused"))
    assert (server.name, server.found) == ("server to join", "10.0.0.2: does not answer: refused")
    (clock,) = errors(checks(options=options, clock_skew=-60.0))
    assert clock.found == "60 s behind 10.0.0.2"


def test_another_etcd_than_the_swarms_is_refused_before_a_host_joins_it() -> None:
    joining = Options(join="10.0.0.2", token_file="/token", image="x/y:1", etcd="shared")

    (refused,) = errors(checks(options=joining, told_etcd="dedicated"))

    assert (refused.name, refused.found) == (
        "etcd",
        "--etcd shared was said, and the swarm of the cluster of 10.0.0.2 uses etcd 'dedicated'",
    )
    assert refused.remedy.startswith("Say the same without --etcd, or with --etcd dedicated")
    unsaid = msgspec.structs.replace(joining, etcd="")
    for options, told in ((joining, "shared"), (unsaid, "dedicated"), (joining, "")):
        assert errors(checks(options=options, told_etcd=told)) == ()


def test_who_joins_is_told_that_another_external_etcd_changes_nothing() -> None:
    external = ExternalEtcd(endpoints=("https://a:2379",), ca_file="/ca", username="a", password_file="/pw")
    joining = Options(join="10.0.0.2", token_file="/token", image="x/y:1", etcd="external", external=external)

    (found,) = (check for check in checks(options=joining) if check.name == "etcd")

    assert (found.level, found.found.partition(" was said")[0]) == ("warning", "https://a:2379")
    assert "on the server that founded the cluster" in found.remedy


def test_who_joins_may_need_the_ports_of_a_swarms_own_etcd() -> None:
    taken = (Listener("tcp", 12379, "nginx (pid 9)"),)
    options = Options(join="10.0.0.1", token_file="/token", etcd="", image="x/y:1")

    (found,) = (one for one in checks(options=options, listeners=taken) if one.level == "warning")

    assert found.found == "tcp 12379 is taken by nginx (pid 9), which the swarm's etcd needs if it is one of its own"
    assert not errors(checks(options=options, listeners=taken))
    founder = Options(etcd="dedicated", image="x/y:1")
    assert [one.name for one in errors(checks(options=founder, listeners=taken))] == ["ports"]


def test_what_stayed_of_an_installation_is_told_also_to_who_joins() -> None:
    joined = Options(join="10.0.0.1", token_file="/token", etcd="", image="x/y:1")
    for options, told in ((WITH_IMAGE, "goes on with it"), (joined, "unless the cluster went on without this host")):
        (found,) = (one for one in checks(options=options, kept_data=True) if one.name == "data")
        assert found.found.endswith(told)


def test_one_that_has_joined_needs_the_server_no_more_that_it_joined() -> None:
    """The founder may have left since."""
    options = Options(join="10.0.0.2", token_file="/token", image="x/y:1")

    started: dict[str, Any] = {"join_problem": "does not answer: refused", "is_installed": True, "is_started": True}

    found = checks(options=options, before=options, **started)

    other = msgspec.structs.replace(options, join="10.0.0.3")
    assert [error.name for error in errors(checks(options=other, before=options, **started))] == ["server to join"]
    assert errors(found) == ()
    assert ("server to join", "warning") in [(check.name, check.level) for check in found]


def test_a_bundle_must_be_whole() -> None:
    options = Options(airgap="/bundle")

    assert errors(checks(options=options, airgap=Airgap(present=True))) == ()
    (nowhere,) = errors(checks(options=options, airgap=Airgap()))
    assert nowhere.found == "/bundle is no directory"
    found = errors(checks(options=options, airgap=Airgap(present=True, missing=("k3s",), broken=("images/a.tar",))))
    assert [check.found for check in found] == [
        "/bundle has no k3s",
        "/bundle/images/a.tar is not what SHA256SUMS says",
    ]


@pytest.mark.parametrize("options", [Options(), Options(join="10.0.0.2", token_file="/token")])
def test_somebody_must_say_where_the_image_is(options: Options) -> None:
    """On each server: replicas come to run there too."""
    (found,) = errors(checks(options=options))

    assert found.name == "image"
    assert "--image-archive" in found.remedy


def test_everything_that_is_not_well_has_a_remedy() -> None:
    bad = HostFacts(architecture="s390x", is_root=False, cpus=1, memory=1, free_disk=1, kept_data=True)

    for check in preflight(Options(etcd="dedicated"), bad):
        assert bool(check.remedy) == (check.level != "ok"), check
