"""Three hosts, one of which has founded a cluster that the others join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.installed import ALL, FLOATING, finished
from tests.e2e.waiting import eventually

TOKEN: Final = "/var/lib/rancher/k3s/server/token"


class Site:
    """Three hosts, one of which has founded the cluster."""

    def __init__(self, found: list[BareHost], directory: Path, *flags: str) -> None:
        """Install on the first; `flags`: with which options besides."""
        self.first, self.second, self.third = found
        self.directory = directory
        self.token_file = directory / "token"
        self.before = {host.name: host.state() for host in found}
        installed = finished(self.first.install(*ALL, *flags, "--floating-ip", FLOATING))
        self.token = installed["token"]
        self.token_file.write_text(self.first.run("cat", TOKEN).out)

    def join(self, host: BareHost, server: str) -> None:
        done = host.install("--join", server, "--token-file", str(self.token_file))
        assert done.code == 0, done.err

    def ask(self, host: BareHost, path: str, *arguments: str) -> Any:
        """The swarm's answer to a host, through the load balancer; None while there is none."""
        headers = ("-H", f"Authorization: Bearer {self.token}", "-H", "Content-Type: application/json")
        done = host.run("curl", "-sf", "-m", "20", *headers, *arguments, f"http://{FLOATING}:3000/api/v1/{path}")
        return json.loads(done.out) if done.code == 0 else None

    def register(self, host: BareHost, name: str) -> None:
        """Register a machine from a host, once however often it takes to be answered."""
        machine = {"metadata": {"name": name}, "spec": {"interfaces": [{"mac": "02:00:00:00:00:01", "dhcp": True}]}}
        said = ("-H", f"Idempotency-Key: {name}", "--data", json.dumps(machine))
        eventually(f"{name} is registered", lambda: self.ask(host, "machines", *said), within=120)

    def knows(self, host: BareHost, name: str) -> None:
        """See that a machine is there, once a host is answered."""
        found = eventually(f"{host.name} is answered", lambda: self.ask(host, f"machines/{name}"), within=120)
        assert found["metadata"]["name"] == name

    def replicas(self, host: BareHost) -> set[str]:
        """The members of the swarm, as a host hears of them; none while nobody answers."""
        return {member["id"] for member in (self.ask(host, "swarm") or {"members": ()})["members"]}


def told(host: BareHost) -> list[str]:
    """Where the replicas are told that etcd is, as this host's API server has it."""
    return host.secret("dragonfly-etcd", "endpoints").split(",")


def states(host: BareHost) -> set[str]:
    """What becomes of each step when the same is said again."""
    again = host.dragonfly("install", "--yes", "-o", "json")
    assert again.code == 0, again.err
    return {state for step, state in again.states().items() if step != "self-test"}


def ready(host: BareHost) -> set[str]:
    """The nodes that get pods; none while the API server does not answer."""
    done = host.kubectl("get", "nodes", "--output", "json")
    nodes = json.loads(done.out)["items"] if done.code == 0 else ()
    return {node["metadata"]["name"] for node in nodes if _is_ready(node)}


def _is_ready(node: Any) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))


def placed(host: BareHost) -> dict[str, str]:
    """On which host each replica is; none while the API server does not answer."""
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in host.pods()}
