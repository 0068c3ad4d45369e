"""Hosts that each have a real etcd of the swarm's own: processes as the DaemonSet has its pods, the rest in memory.

Each host is an address of loopback of its own, for the members' ports are the same everywhere. What a kubelet does, is
done whenever somebody looks at the nodes: what ended is started again, and what a Secret says is written where it is
mounted.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import yaml

from dragonfly.install.own_etcd import OwnEtcd
from dragonfly.install.steps import FoundEtcd, JoinEtcd
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.store.errors import StoreError
from dragonfly.store.members import EtcdMembers, Member
from dragonfly.store.settings import EtcdSettings
from tests.contract.etcds import Build
from tests.e2e.waiting import eventually
from tests.unit.install.own_etcds import ACCESS, OWN, Nodes, Server

_DAEMON_SET: Final = Path(__file__).parents[2] / "deploy/k3s/overlays/dedicated/etcd.yaml"
PATIENCE: Final = 120.0
"""Seconds, for what takes some."""


class RealNodes(Nodes):
    """Their API server is in memory, what runs on them is real."""

    def __init__(self, directory: Path, ports: PortLease, build: Build) -> None:
        super().__init__(directory, lambda: dt.datetime.now(dt.UTC))
        number = ports.take()
        self._network = f"127.{number >> 8}.{number & 0xFF}"
        """Nobody else's: its two bytes are a port that is leased."""
        self._build = build
        self._pods: dict[str, Service] = {}
        self.down: set[str] = set()
        """Hosts without power."""

    def address(self, number: int) -> str:
        return f"{self._network}.{number}"

    def hosts(self) -> Mapping[str, str]:
        self.settle()
        return super().hosts()

    def settle(self) -> None:
        """Do what the kubelets do when they look."""
        super().settle()
        for host in self._pods.keys() - (self.running - self.down):
            self._pods.pop(host).kill()
        if not self.says(OWN):
            return  # a pod waits for its Secret
        for host in sorted(self.running - self.down):
            self._mount(host)
            if host not in self._pods or not self._pods[host].running:
                # What it is told in its environment, it is told when it starts.
                self._pods[host] = self._pod(host)
                self._pods[host].spawn()

    def stop(self) -> None:
        with ExitStack() as stack:
            for pod in self._pods.values():
                stack.callback(pod.kill)

    def lose_power(self, host: str) -> None:
        self.down.add(host)
        self.settle()

    def lose_disk(self, host: str) -> None:
        """A host comes back with another, empty one, and its pod starts there before anybody looks."""
        self.lose_power(host)
        shutil.rmtree(self.data(host).parents[1])
        self.down.discard(host)
        self.settle()
        eventually("a member has started on an empty disk", self.data(host).exists, within=PATIENCE)

    def ending(self, host: str) -> int | None:
        """How the pod on a host ended last; None while it runs."""
        return self._pods[host].exit_code

    def log(self, host: str) -> str:
        return (self.directory / f"{host}.log").read_text(errors="replace")

    def members(self, *hosts: str) -> tuple[Member, ...]:
        """All that there are, as one of these hosts knows them; none while it does not answer."""
        with closing(self.opened_at(*hosts)) as etcd:
            try:
                return etcd.members()
            except StoreError:
                return ()

    def answering(self) -> set[str]:
        """The names of the members with a vote that answer, as the others know them."""
        told = self.says(ACCESS)["endpoints"].split(",")
        with closing(_open(self, told)) as etcd:
            try:
                members, ids = etcd.members(), etcd.answering()
            except StoreError:
                return set()
        return {one.name for one in members if one.id in ids and not one.is_learner}

    def opened_at(self, *hosts: str) -> EtcdMembers:
        """Open the members on these hosts, and no other."""
        return _open(self, [f"https://{self.addresses[host]}:12379" for host in hosts])

    def _mount(self, host: str) -> None:
        directory = self._secret(host)
        directory.mkdir(parents=True, exist_ok=True)
        for key, value in self.says(OWN).items():
            if not (file := directory / key).exists() or file.read_text() != value:
                (new := directory / f".{key}").write_text(value)
                new.rename(file)

    def _secret(self, host: str) -> Path:
        return self.directory / host / "secret"

    def _pod(self, host: str) -> Service:
        address, says, home = self.addresses[host], self.says(OWN), self.data(host).parents[1]
        home.mkdir(parents=True, exist_ok=True)
        values = {
            "$(NODE)": host,
            "$(ADDRESS)": address,
            "$(INITIAL_CLUSTER)": says["initial-cluster"],
            "$(INITIAL_CLUSTER_STATE)": says["initial-cluster-state"],
            "/var/lib/etcd": str(home),
            "/etc/etcd": str(self._secret(host)),
            "http://127.0.0.1:": f"http://{address}:",
        }
        arguments = [_filled(argument, values) for argument in _arguments()]
        command = (str(self._build.binary), *arguments, "--unsafe-no-fsync=true", "--log-level=warn")
        program = Program(host, command, self.directory / f"{host}.log")
        return Service(program, lambda: http_ok(f"http://{address}:12381/livez"), within=PATIENCE)


class RealServer(Server):
    """One host of those, where the installer waits as long as it takes."""

    def __init__(self, nodes: RealNodes, number: int) -> None:
        super().__init__(nodes, number)
        self._nodes = nodes

    def found(self) -> None:
        own, secrets = self.hands()
        self._has_member(own, FoundEtcd(self.name, self.address))
        secrets.give(self._give("dedicated", joins=False), self.said.append)
        eventually(f"{self.name} answers", lambda: self._nodes.answering() >= {self.name}, within=PATIENCE)

    def join(self, *, looks: int = 0) -> None:
        own, secrets = self.hands()
        self._has_member(own, JoinEtcd(self.name, self.address))
        secrets.give(self._give("", joins=True), self.said.append)

    def left(self) -> None:
        """Leave, as often as that has to be tried again."""
        own, secrets = self.hands()

        def is_gone() -> bool:
            problem = own.leave(self.name, secrets.give_endpoints)
            self.said.append(problem)
            return not problem

        eventually(f"{self.name} has left: {self.said}", is_gone, within=PATIENCE)

    def _has_member(self, own: OwnEtcd, action: FoundEtcd | JoinEtcd) -> None:
        if own.has_member(action):
            return

        def is_there() -> bool:
            problem = own.have_member(action, self.said.append)
            self.said.append(problem)
            return not problem

        try:
            eventually(f"{self.name} has a member", is_there, within=PATIENCE)
        except AssertionError as error:
            error.add_note(f"{self.said[-5:]}\n{self._nodes.log(self.name)[-2000:]}")
            raise


def _arguments() -> list[str]:
    """What the DaemonSet's container is told."""
    (daemon_set,) = (
        obj for obj in yaml.safe_load_all(_DAEMON_SET.read_text(encoding="utf-8")) if obj["kind"] == "DaemonSet"
    )
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    return list(map(str, container["args"]))


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _open(nodes: RealNodes, urls: list[str]) -> EtcdMembers:
    directory = nodes.directory / "client"
    directory.mkdir(exist_ok=True)
    files = {key: directory / key for key in ("ca", "cert", "key")}
    for key, file in files.items():
        file.write_text(nodes.says(OWN)[key])
    settings = EtcdSettings(endpoints=tuple(urls), ca_file=files["ca"], cert_file=files["cert"], key_file=files["key"])
    return EtcdMembers.open(settings)
