"""A whole Dragonfly site for a test: replicas behind HAProxy, on the control plane that the session shares.

Each site has an etcd prefix, names and MACs of its own, so that what one test leaves in the cluster is nobody else's.
"""

import itertools
import json
import ssl
import sys
import time
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from kubernetes import client as kubernetes
from kubernetes import config

from dragonfly.sandbox import apt
from dragonfly.sandbox.agents import Step, read_trace
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.fate import Behaviour
from dragonfly.sandbox.haproxy import LoadBalancer
from dragonfly.sandbox.host import Host
from dragonfly.sandbox.ports import PortLease
from dragonfly.sandbox.probes import http_ok
from dragonfly.sandbox.process import Program, Service
from dragonfly.sandbox.progress import SILENT
from dragonfly.sandbox.swarm import Replica, Swarm, replica_environment
from dragonfly.swarm.shards import shard_of
from tests.e2e.api import Api
from tests.e2e.audit import Audit, read_audit
from tests.e2e.waiting import eventually

SHARDS: Final = 8
"""The default of DRAGONFLY_SHARDS."""
_NUMBERS: Final = itertools.count(1)
_BASE_MAC: Final = 0x02_E2_00_00_00_00  # locally administered: no vendor has it
_GROUP: Final = ("tinkerbell.org", "v1alpha1", NAMESPACE)
_PATIENCE: Final = 60.0
"""Seconds for what takes a few on a computer that has nothing else to do."""


class Machine(NamedTuple):
    """A machine of a test: its name in Dragonfly, and the MAC that its agent goes by."""

    name: str
    mac: str

    def document(self) -> dict[str, Any]:
        """The body to register it with."""
        interfaces = [{"mac": self.mac, "dhcp": True}]
        disks = [{"device": "/dev/sda"}]
        return {"metadata": {"name": self.name}, "spec": {"interfaces": interfaces, "disks": disks}}


class Site:
    """Three replicas behind HAProxy; killed ones are started again."""

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        ports: PortLease,
        replicas: int,
        *,
        environment: Mapping[str, str] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
        hosts: Mapping[str, Host] | None = None,
    ) -> None:
        """Nothing starts before `running`.

        Args:
            environment: what all replicas are told otherwise than usual.
            own: what single replicas are told besides, by id.
            hosts: where single replicas run, by id.
        """
        self.plane = plane
        self.number = next(_NUMBERS)
        self._directory = directory
        self._agents = itertools.count(1)
        self._machines = itertools.count(1)
        self.prefix = f"/e2e-{self.number}/"
        usual = replica_environment(plane, directory) | {"DRAGONFLY_ETCD_PREFIX": self.prefix}
        self._token = Path(usual["DRAGONFLY_ADMIN_TOKEN_FILE"]).read_text().strip()
        self.swarm = Swarm(
            directory / "swarm", ports, usual | dict(environment or {}), replicas=replicas, own=own, hosts=hosts
        )
        self.balancer = LoadBalancer(
            apt.program("haproxy", SILENT),
            directory / "haproxy",
            port=ports.take(),
            stats_port=ports.take(),
            replicas=[replica.url.removeprefix("http://") for replica in self.swarm.replicas],
        )
        self.api = self.api_at(self.balancer.url)
        admin = config.new_client_from_config(str(plane.admin_kubeconfig))  # type: ignore[no-untyped-call] # the library's config has no types
        self.cluster = kubernetes.CustomObjectsApi(admin)

    @contextmanager
    def running(self) -> Iterator["Site"]:
        with ExitStack() as stack:
            stack.enter_context(self.cluster.api_client)
            stack.enter_context(self.api)
            stack.callback(self.swarm.stop)
            self.swarm.start()
            stack.callback(self.balancer.service.stop)
            self.balancer.service.start()
            yield self

    def in_rotation(self) -> list[Replica]:
        """Those that are ready and that the load balancer knows to be: it learns of it half a second later."""
        known = self.balancer.in_rotation()
        return [
            replica
            for replica in self.swarm.replicas
            if urlsplit(replica.url).netloc in known and http_ok(f"{replica.url}/readyz")
        ]

    def api_at(self, url: str) -> Api:
        return Api(url, self._token)

    def machines(self, count: int) -> list[Machine]:
        """Machines that no other test has, not yet registered."""
        return [self._machine(next(self._machines)) for _ in range(count)]

    def machines_of_each_shard(self, count: int) -> list[Machine]:
        """As `machines`, so many of each shard of `local`: by chance alone a replica may drive none of two dozen."""
        left = dict.fromkeys(range(SHARDS), count)
        made = []
        while any(left.values()):
            machine = self._machine(next(self._machines))
            shard = shard_of(machine.name, SHARDS)
            if left[shard]:
                left[shard] -= 1
                made.append(machine)
        return made

    def registered(self, count: int = 1) -> list[Machine]:
        made = self.machines(count)
        for machine in made:
            self.api.post("machines", machine.document())
        return made

    def settled(self, machine: Machine) -> None:
        """Wait until the swarm has brought a new machine into its cluster, and has nothing more to write."""
        eventually(
            f"{machine.name} is in its cluster",
            lambda: self.api.get(f"machines/{machine.name}")["status"].get("conditions"),
            within=_PATIENCE,
        )

    def template(self, name: str, spec: Mapping[str, Any]) -> str:
        self.api.post("templates", {"metadata": {"name": name}, "spec": spec})
        return name

    def provision(self, machine: Machine, template: str, **parameters: Any) -> str:
        """Ask for it; the provision's name."""
        body = {"template": template, "parameters": parameters}
        name: str = self.api.post(f"machines/{machine.name}/provision", body)["metadata"]["name"]
        return name

    def status(self, provision: str) -> dict[str, Any]:
        status: dict[str, Any] = self.api.get(f"provisions/{provision}")["status"]
        return status

    def is_driven(self, cluster: str) -> bool:
        """Whether a replica reaches the cluster, and each of its shards has an owner."""
        status = self.api.get(f"clusters/{cluster}")["status"]
        return bool(status["reachable"]) and all(status["owners"].values())

    def phase(self, provision: str) -> str:
        return str(self.status(provision)["phase"])

    @contextmanager
    def agents(self, machines: Sequence[Machine], behaviour: Behaviour) -> Iterator["Agents"]:
        """Switch simulated machines on for the block."""
        agents = Agents(self._directory / f"agents-{next(self._agents)}", self.plane.tink_server, machines, behaviour)
        agents.service.start()
        try:
            yield agents
        finally:
            agents.service.stop()

    def audit(self) -> Audit:
        return read_audit(self.plane.audit_log)

    def hardware(self) -> dict[str, Any]:
        """The Hardware objects of this site's machines, by name, as the cluster's admin sees them."""
        return self._objects("hardware")

    def workflows(self) -> dict[str, Any]:
        return self._objects("workflows", "dragonfly.io/machine")

    def events(self, name: str) -> set[str]:
        """The reasons of the Kubernetes Events about the object of that name."""
        core = kubernetes.CoreV1Api(self.cluster.api_client)
        selector = f"involvedObject.name={name}"
        listed = _answered(lambda: core.list_namespaced_event(NAMESPACE, field_selector=selector))
        return {event.reason for event in listed.items if event.reason}

    def open_netboot(self, machine: Machine) -> None:
        """Do what nobody but Dragonfly should: let the machine boot from the network."""
        interfaces = self.hardware()[machine.name]["spec"]["interfaces"]
        interfaces[0]["netboot"]["allowPXE"] = True
        self.cluster.patch_namespaced_custom_object(
            *_GROUP, "hardware", machine.name, {"spec": {"interfaces": interfaces}}
        )

    def netboot(self) -> dict[str, list[bool]]:
        """`allowPXE` of every interface, by machine."""
        return {
            name: [interface["netboot"]["allowPXE"] for interface in found["spec"]["interfaces"]]
            for name, found in self.hardware().items()
        }

    def stored(self) -> dict[str, int]:
        """The revision of every key under the swarm's prefix, read from etcd itself."""
        found = self._range(self.prefix)
        return {key.removeprefix(self.prefix): revision for key, revision in found}

    def _machine(self, number: int) -> Machine:
        address = _BASE_MAC + (self.number << 16) + number
        return Machine(f"e{self.number}-{number:03}", ":".join(f"{byte:02x}" for byte in address.to_bytes(6, "big")))

    def _objects(self, plural: str, label: str = "") -> dict[str, Any]:
        listed = _answered(lambda: self.cluster.list_namespaced_custom_object(*_GROUP, plural))
        found = {item["metadata"]["name"]: item for item in listed["items"]}
        return {name: item for name, item in found.items() if self._is_mine(item["metadata"], label)}

    def _is_mine(self, metadata: dict[str, Any], label: str) -> bool:
        machine = metadata.get("labels", {}).get(label, "") if label else metadata["name"]
        return str(machine).startswith(f"e{self.number}-")

    def _range(self, prefix: str) -> Iterator[tuple[str, int]]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        body = {"key": base64_of(prefix), "range_end": base64_of(end), "keys_only": True}
        tls = ssl.create_default_context(cafile=self.plane.etcd_ca)
        tls.load_cert_chain(self.plane.etcd_cert, self.plane.etcd_key)
        request = urllib.request.Request(f"{self.plane.etcd_endpoints[0]}/v3/kv/range", json.dumps(body).encode())
        with urllib.request.urlopen(request, context=tls) as answer:
            for item in json.load(answer).get("kvs", []):
                yield _text(item["key"]), int(item["mod_revision"])


def _answered(ask: Callable[[], Any]) -> Any:
    """What the API server answers; it is asked again while it says that it, or its etcd, has just been started."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return ask()
        except kubernetes.ApiException as error:
            if (error.status or 0) < 500 or time.monotonic() > deadline:
                raise
        Event().wait(0.2)


class Agents:
    """Simulated machines in a process of their own."""

    def __init__(self, directory: Path, server: str, machines: Sequence[Machine], behaviour: Behaviour) -> None:
        directory.mkdir()
        identities = directory / "macs"
        identities.write_text("\n".join(machine.mac for machine in machines))
        self._trace = directory / "trace.jsonl"
        command = [sys.executable, "-m", "dragonfly.sandbox", "agents", "--server", server]
        command += ["--ids-file", str(identities), "--trace", str(self._trace), *_flags(behaviour)]
        program = Program("machines", tuple(command), directory / "machines.log")
        # The trace is opened before the first agent asks for work.
        self.service = Service(program, self._trace.exists, within=60)

    def trace(self) -> list[Step]:
        return read_trace(self._trace)


def _flags(behaviour: Behaviour) -> Iterator[str]:
    yield from ("--seed", str(behaviour.seed))
    yield from ("--fail-rate", str(behaviour.fail_rate))
    yield from ("--timeout-rate", str(behaviour.timeout_rate))
    yield from ("--silence-rate", str(behaviour.silence_rate))
    yield from ("--seconds", str(behaviour.shortest), str(behaviour.longest))
    if behaviour.silence is not None:
        yield from ("--silence", str(behaviour.silence))


def base64_of(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return b64decode(encoded).decode()
