"""What the survey finds on this very computer, and in trees that look like others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly.install import host_survey
from dragonfly.install.host_facts import Listener
from dragonfly.install.host_survey import survey
from dragonfly.install.journal import Journal
from dragonfly.install.neighbours import Neighbours
from dragonfly.install.options import ExternalEtcd, Options


class NoWire(Neighbours):
    """A wire that nobody may ask."""

    def holders(self, interface: str, addresses: object) -> tuple[str, ...]:
        raise PermissionError

    def dhcp_servers(self, interface: str) -> tuple[str, ...]:
        raise PermissionError


HAS_INTERNET = host_survey._has_internet


@pytest.fixture(autouse=True)
def without_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_survey, "_has_internet", lambda: False)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "dragonfly" / "install")


def test_who_listens_is_found_with_its_process(journal: Journal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))

        found = survey(Options(), journal, neighbours=NoWire()).listeners
        wanted = {("tcp", tcp.getsockname()[1]), ("udp", udp.getsockname()[1])}

    ours = {(one.protocol, one.port) for one in found if f"(pid {os.getpid()})" in one.process}
    assert wanted <= ours


def test_a_process_that_ends_while_it_is_looked_at_is_passed_over(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1"
    for process in ("12", "13"):
        (tmp_path / "proc" / process / "fd").mkdir(parents=True)
        (tmp_path / "proc" / process / "comm").write_text("nginx\n")
        (tmp_path / "proc" / process / "fd" / "3").symlink_to("socket:[77]" if process == "13" else "/dev/null")
    (tmp_path / "proc" / "net").mkdir()
    (tmp_path / "proc" / "net" / "tcp").write_text(f"head\n{listens}\n")

    def ending(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def looked(directory: Any) -> Any:
            if Path(directory).match("12/fd"):
                raise FileNotFoundError(directory)
            return look(directory)

        return looked

    monkeypatch.setattr(os, "listdir", ending(os.listdir))
    monkeypatch.setattr(os, "scandir", ending(os.scandir))

    assert survey(Options(), journal, root=tmp_path, neighbours=NoWire()).listeners == (
        Listener("tcp", 8080, "nginx (pid 13)"),
    )


def test_this_computer_is_described(journal: Journal) -> None:
    found = survey(Options(floating_ip="10.0.0.50"), journal, neighbours=NoWire())

    assert found.system == "Linux"
    assert found.cpus >= 1
    assert found.memory > 1 << 28
    assert found.free_disk > 0
    assert found.hostname == socket.gethostname().lower()
    assert (found.dhcp_servers, found.taken) == (None, None)
    assert not found.is_installed
    assert not found.kept_data


def test_another_kubernetes_is_found_by_what_it_leaves(tmp_path: Path, journal: Journal) -> None:
    root = tmp_path / "root"
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/k3s").touch()
    (root / "etc/kubernetes/manifests").mkdir(parents=True)

    found = survey(Options(), journal, root=root, neighbours=NoWire())

    assert found.k3s == "k3s (/usr/local/bin/k3s)"
    assert found.kubernetes == "the manifests of kubeadm (/etc/kubernetes/manifests)"
    assert (found.address, found.interface, found.has_systemd) == ("", "", False)


@pytest.mark.parametrize(
    ("files", "controllers"),
    [
        (
            {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"},
            ("cpu", "cpuset", "io", "memory", "pids"),
        ),
        (
            {"proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t4\t1\t0\n"},
            ("cpu",),
        ),
    ],
)
def test_controllers_of_either_kind_of_cgroups(
    tmp_path: Path, journal: Journal, files: dict[str, str], controllers: tuple[str, ...]
) -> None:
    root = tmp_path / "root"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)

    assert survey(Options(), journal, root=root, neighbours=NoWire()).cgroup_controllers == controllers


@pytest.mark.parametrize(
    ("files", "firewalls"),
    [
        ({}, ()),
        ({"sys/fs/cgroup/system.slice/firewalld.service/cgroup.procs": "712\n"}, ("firewalld",)),
        ({"sys/fs/cgroup/systemd/system.slice/firewalld.service/cgroup.procs": "712\n"}, ("firewalld",)),
        ({"sys/fs/cgroup/system.slice/firewalld.service/cgroup.procs": ""}, ()),
        ({"sys/fs/cgroup/machine.slice/system.slice/firewalld.service/cgroup.procs": "9\n"}, ()),
        ({"etc/ufw/ufw.conf": "# Set to yes to start on boot.\nENABLED=yes\nLOGLEVEL=low\n"}, ("ufw",)),
        ({"etc/ufw/ufw.conf": 'ENABLED=no\nenabled="Yes"\n'}, ("ufw",)),
        ({"etc/ufw/ufw.conf": "#ENABLED=yes\nENABLED=no\n"}, ()),
    ],
)
def test_a_firewall_that_is_on_is_found_by_what_runs_or_by_what_it_is_told(
    tmp_path: Path, journal: Journal, files: dict[str, str], firewalls: tuple[str, ...]
) -> None:
    """Neither a firewall that is only installed nor one of a container counts."""
    root = tmp_path / "root"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    root.mkdir(exist_ok=True)

    assert survey(Options(), journal, root=root, neighbours=NoWire()).firewalls == firewalls


def test_what_our_own_installation_left_is_told_apart(journal: Journal) -> None:
    journal.begun("data", ())
    begun = survey(Options(), journal, neighbours=NoWire())
    journal.begun("k3s", ())
    started = survey(Options(), journal, neighbours=NoWire())
    journal.undone("data", ())
    journal.undone("k3s", ())
    left = survey(Options(), journal, neighbours=NoWire())

    assert (begun.is_installed, begun.is_started, begun.kept_data) == (True, False, False)
    assert started.is_started
    assert (left.is_installed, left.kept_data) == (False, True)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "ca").touch()
    external = ExternalEtcd(
        endpoints=("https://a:1",), ca_file=str(tmp_path / "ca"), username="a", password_file=str(tmp_path / "pw")
    )

    found = survey(Options(etcd="external", external=external), journal, neighbours=NoWire())

    assert found.missing_files == (str(tmp_path / "pw"),)


def test_a_server_that_does_not_answer_is_told(journal: Journal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = Options(join=f"127.0.0.1:{port}", token_file="/nowhere")

    assert "does not answer" in survey(options, journal, neighbours=NoWire()).join_problem


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, {("github.com", 443), ("ghcr.io", 443)}),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, {("proxy.example", 3128)}),
        ({"https_proxy": "proxy.example:3128"}, {("proxy.example", 3128)}),
        ({"https_proxy": "https://proxy.example"}, {("proxy.example", 443)}),
        ({"https_proxy": "http://proxy.example", "no_proxy": "ghcr.io"}, {("proxy.example", 80), ("ghcr.io", 443)}),
    ],
)
def test_the_internet_is_where_a_proxy_leads(
    environment: dict[str, str], asked: set[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tried: set[tuple[str, int]] = set()

    def connect(where: tuple[str, int], **_: object) -> socket.socket:
        tried.add(where)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)

    assert HAS_INTERNET()
    assert tried == asked
